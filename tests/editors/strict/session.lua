-- A hard session with the server over Neovim's own client (vim.lsp.rpc); writes what came of it as JSON.
-- COMMAND is the server's as JSON, SCRIPT its script, WAY how it is reached: stdio, or a port.
local problems, answers, outcomes, codes = {}, {}, {}, {}
local counts = { progress = 0, applied = 0, status = {} }
local script, sent, answered = vim.env.SCRIPT, 0, 0

local function problem(what)
  table.insert(problems, string.sub(tostring(what), 1, 300))
end

local function says(keys)
  vim.fn.writefile({ vim.json.encode(keys) }, script .. '.new')
  vim.uv.fs_rename(script .. '.new', script)
end

local dispatchers = {
  notification = function(method, params)
    if method == '$/progress' then
      counts.progress = counts.progress + 1
    elseif method == 'codeclippy/status' then
      table.insert(counts.status, params.state)
    else
      problem(method .. ': ' .. vim.inspect(params))
    end
  end,
  server_request = function(method)
    if method == 'workspace/applyEdit' then
      counts.applied = counts.applied + 1
      return { applied = true }, nil
    end
    if method ~= 'window/workDoneProgress/create' then
      problem(method)
    end
    return vim.NIL, nil
  end,
  on_exit = function(code)
    codes.exit = code
  end,
  on_error = function(code, err)
    problem(tostring(vim.lsp.rpc.client_errors[code] or code) .. ': ' .. vim.inspect(err))
  end,
}

says({ complete = "'ü😀' + wert" })
local port = tonumber(vim.env.WAY)
local command = vim.json.decode(vim.env.COMMAND)
local client = port and vim.lsp.rpc.connect('127.0.0.1', port)(dispatchers) or vim.lsp.rpc.start(command, dispatchers)

local function within(condition, what)
  if not vim.wait(30000, condition, 5) then
    problem('waited in vain for ' .. what)
  end
end

-- A cancelled request's callback is never called: that there was an answer is heard of by the other one.
local function ask(kind, method, params, take)
  sent = sent + 1
  outcomes[kind] = outcomes[kind] or {}
  local place = #outcomes[kind] + 1
  outcomes[kind][place] = -32800
  local _, id = client.request(method, params, function(err, result)
    outcomes[kind][place] = err and err.code or 'result'
    if take then
      take(result, err)
    end
  end, function(id)
    answers[id] = (answers[id] or 0) + 1
    answered = answered + 1
  end)
  return id
end

local function all()
  within(function()
    return answered >= sent
  end, 'answers')
  vim.wait(50, function() return false end) -- callbacks are scheduled
end

ask('plain', 'initialize', {
  processId = vim.uv.os_getpid(), rootUri = vim.NIL,
  capabilities = { window = { workDoneProgress = true }, workspace = { applyEdit = true } },
  initializationOptions = { statusNotification = true, completion = { prefetch = false } },
})
all()
client.notify('initialized', vim.empty_dict())
within(function() return counts.status[#counts.status] == 'ready' end, 'the model')

local uri, position = 'file:///ü😀.py', { line = 2, character = 4 }
local function open(name)
  client.notify('textDocument/didOpen', {
    textDocument = { uri = name, languageId = 'python', version = 1, text = '# 日本😀\na = 1\nx = ' } })
end
open(uri)
ask('plain', 'textDocument/completion', { textDocument = { uri = uri }, position = position }, function(result)
  outcomes.text = result.items[1].textEdit.newText
end)
all()

-- Many at a time, of all kinds.
for n = 0, 39 do
  local name = ('file:///%d😀.py'):format(n)
  open(name)
  ask('plain', 'textDocument/completion', { textDocument = { uri = name }, position = position })
  ask('plain', 'textDocument/codeAction', {
    textDocument = { uri = uri }, context = { diagnostics = vim.empty_dict() and {} },
    range = { start = position, ['end'] = position } })
  ask('unknown', 'nobody/knows', { n = n })
  ask('params', 'textDocument/completion', { textDocument = n })
end
all()

-- Cancelled at once, twice, after the answer, and what never was.
says({ complete = 'x', delay = 0.2 })
for n = 0, 39 do
  local name = ('file:///%d😀.py'):format(n)
  local id = ask('cancelled', 'textDocument/completion', {
    textDocument = { uri = name }, position = { line = 0, character = 2 } })
  for _, one in ipairs({ id, id, 100000 + n, tostring(n) }) do
    client.notify('$/cancelRequest', { id = one })
  end
end
all()
for id = 0, sent do
  client.notify('$/cancelRequest', { id = id })
end

-- Large, both ways.
ask('unknown', ('😀'):rep(500000), vim.empty_dict(), function(_, err)
  if not err.message:find(('😀'):rep(1000), 1, true) then
    problem('the large answer')
  end
end)
all()

-- An edit with thousands of notifications before it.
says({ fault = 'flood', edit = vim.env.HUNKS })
ask('plain', 'workspace/executeCommand', {
  command = 'codeclippy.edit', arguments = { { uri = uri, message = 'Go' } } })
within(function() return counts.applied > 0 end, 'the edit')
says({ complete = 'y' })
ask('plain', 'textDocument/completion', { textDocument = { uri = uri }, position = position })
all()
ask('plain', 'shutdown', nil)
all()
client.notify('exit', nil)
within(function() return client.is_closing() and (port or codes.exit) end, 'the end')

local twice, distinct = {}, 0
for id, count in pairs(answers) do
  distinct = distinct + 1
  if count ~= 1 then
    table.insert(twice, id)
  end
end
io.stdout:write('\n' .. vim.json.encode({
  sent = sent, answered = distinct, twice = twice, outcomes = outcomes, counts = counts, problems = problems,
  codes = port and vim.empty_dict() or codes,
}) .. '\n')
