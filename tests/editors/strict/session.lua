-- A stress session with the server over Neovim's own client (vim.lsp.rpc); writes its results as JSON.
-- COMMAND is the server's command as JSON, SCRIPT its script, TRANSPORT how to connect: stdio or a TCP port.
local problems, answers, outcomes, codes = {}, {}, {}, {}
local counts = { progress = 0, applied = 0, status = {} }
local script, sent, answered = vim.env.SCRIPT, 0, 0

local function report_problem(problem)
  table.insert(problems, string.sub(tostring(problem), 1, 300))
end

local function write_script(keys)
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
      report_problem(method .. ': ' .. vim.inspect(params))
    end
  end,
  server_request = function(method)
    if method == 'workspace/applyEdit' then
      counts.applied = counts.applied + 1
      return { applied = true }, nil
    end
    if method ~= 'window/workDoneProgress/create' then
      report_problem(method)
    end
    return vim.NIL, nil
  end,
  on_exit = function(code)
    codes.exit = code
  end,
  on_error = function(code, err)
    report_problem(tostring(vim.lsp.rpc.client_errors[code] or code) .. ': ' .. vim.inspect(err))
  end,
}

write_script({ complete = "'ü😀' + wert" })
local port = tonumber(vim.env.TRANSPORT)
local command = vim.json.decode(vim.env.COMMAND)
local client = port and vim.lsp.rpc.connect('127.0.0.1', port)(dispatchers) or vim.lsp.rpc.start(command, dispatchers)

local function wait_until(condition, description)
  if not vim.wait(30000, condition, 5) then
    report_problem('timed out waiting for ' .. description)
  end
end

-- The callback of a cancelled request is never called: the second one counts its answer.
local function send_request(kind, method, params, on_result)
  sent = sent + 1
  outcomes[kind] = outcomes[kind] or {}
  local place = #outcomes[kind] + 1
  outcomes[kind][place] = -32800
  local _, id = client.request(method, params, function(err, result)
    outcomes[kind][place] = err and err.code or 'result'
    if on_result then
      on_result(result, err)
    end
  end, function(id)
    answers[id] = (answers[id] or 0) + 1
    answered = answered + 1
  end)
  return id
end

local function wait_for_answers()
  wait_until(function()
    return answered >= sent
  end, 'answers')
  vim.wait(50, function() return false end) -- callbacks are scheduled
end

send_request('plain', 'initialize', {
  processId = vim.uv.os_getpid(), rootUri = vim.NIL,
  capabilities = { window = { workDoneProgress = true }, workspace = { applyEdit = true } },
  initializationOptions = { statusNotification = true, completion = { prefetch = false } },
})
wait_for_answers()
client.notify('initialized', vim.empty_dict())
wait_until(function() return counts.status[#counts.status] == 'ready' end, 'the model')

local uri, position = 'file:///ü😀.py', { line = 2, character = 4 }
local function open(name)
  client.notify('textDocument/didOpen', {
    textDocument = { uri = name, languageId = 'python', version = 1, text = '# 日本😀\na = 1\nx = ' } })
end
open(uri)
send_request('plain', 'textDocument/completion', { textDocument = { uri = uri }, position = position }, function(result)
  outcomes.text = result.items[1].textEdit.newText
end)
wait_for_answers()

-- Many requests of all kinds at a time.
for n = 0, 39 do
  local name = ('file:///%d😀.py'):format(n)
  open(name)
  send_request('plain', 'textDocument/completion', { textDocument = { uri = name }, position = position })
  send_request('plain', 'textDocument/codeAction', {
    textDocument = { uri = uri }, context = { diagnostics = vim.empty_dict() and {} },
    range = { start = position, ['end'] = position } })
  send_request('unknown', 'nobody/knows', { n = n })
  send_request('params', 'textDocument/completion', { textDocument = n })
end
wait_for_answers()

-- Cancelled immediately, twice, after the answer, and with unknown ids.
write_script({ complete = 'x', delay = 0.2 })
for n = 0, 39 do
  local name = ('file:///%d😀.py'):format(n)
  local id = send_request('cancelled', 'textDocument/completion', {
    textDocument = { uri = name }, position = { line = 0, character = 2 } })
  for _, one in ipairs({ id, id, 100000 + n, tostring(n) }) do
    client.notify('$/cancelRequest', { id = one })
  end
end
wait_for_answers()
for id = 0, sent do
  client.notify('$/cancelRequest', { id = id })
end

-- A large request and a large answer.
send_request('unknown', ('😀'):rep(500000), vim.empty_dict(), function(_, err)
  if not err.message:find(('😀'):rep(1000), 1, true) then
    report_problem('the large answer is not as expected')
  end
end)
wait_for_answers()

-- An edit after thousands of notifications.
write_script({ fault = 'flood', edit = vim.env.HUNKS })
send_request('plain', 'workspace/executeCommand', {
  command = 'codeclippy.edit', arguments = { { uri = uri, message = 'Go' } } })
wait_until(function() return counts.applied > 0 end, 'the edit')
write_script({ complete = 'y' })
send_request('plain', 'textDocument/completion', { textDocument = { uri = uri }, position = position })
wait_for_answers()
send_request('plain', 'shutdown', nil)
wait_for_answers()
client.notify('exit', nil)
wait_until(function() return client.is_closing() and (port or codes.exit) end, 'the end')

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
