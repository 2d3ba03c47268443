--- What a user calls: accepting suggestions, edits by message, pausing. All knowledge of models stays in the server.
local M = {}

local NAME = 'codeclippy'

--- Keys of insert mode, mapped in buffers that Code Clippy serves. `vim.g.codeclippy_keys = false` maps none.
local KEYS = {
  { '<Tab>', 'accept', 'accept the suggestion' },
  { '<M-Right>', 'accept_word', 'accept the next word' },
  { '<M-C-Right>', 'accept_line', 'accept the next line' },
  { '<M-]>', 'next', 'next suggestion' },
  { '<M-[>', 'previous', 'previous suggestion' },
  { '<C-]>', 'dismiss', 'hide the suggestion' },
}

---@param buffer? integer
---@return vim.lsp.Client?
function M.client(buffer)
  return vim.lsp.get_clients({ bufnr = buffer or 0, name = NAME })[1]
end

---@param text string
---@param level? integer
local function say(text, level)
  require('codeclippy.say').say('Code Clippy: ' .. text, level)
end

--- What a key does where there is no suggestion: what it did before, as far as that is Neovim's own.
---@param key string
---@return string
local function otherwise(key)
  if key == '<Tab>' and vim.snippet and vim.snippet.active({ direction = 1 }) then
    return '<Cmd>lua vim.snippet.jump(1)<CR>'
  end
  return key
end

--- Whether a key is free, or has only Neovim's own mapping: others keep theirs.
---@param key string
---@return boolean
local function free(key)
  local mapped = vim.fn.maparg(key, 'i', false, true)
  return vim.tbl_isempty(mapped) or (mapped.desc or ''):find('vim.snippet', 1, true) ~= nil
end

---@param buffer integer
local function map_keys(buffer)
  if vim.g.codeclippy_keys == false then
    return
  end
  vim.api.nvim_buf_call(buffer, function()
    for _, row in ipairs(KEYS) do
      local key, name, what = row[1], row[2], row[3]
      if free(key) then
        vim.keymap.set('i', key, function()
          local function instead()
            vim.api.nvim_feedkeys(vim.keycode(otherwise(key)), 'in', false)
          end
          if not M[name](instead) then
            instead()
          end
        end, { buffer = buffer, desc = 'Code Clippy: ' .. what })
      end
    end
  end)
end

--- Called by `lsp/codeclippy.lua` for every buffer that the server serves.
---@param client vim.lsp.Client
---@param buffer integer
function M.attach(client, buffer)
  require('codeclippy.ghost').enable(client, buffer, true)
  require('codeclippy.menu').enable(client, buffer)
  if not vim.b[buffer].codeclippy_mapped then
    vim.b[buffer].codeclippy_mapped = true
    map_keys(buffer)
  end
end

--- Accept the whole suggestion. All of these return whether there was one; `stale` is called where it turns out a moment
--- later that the text had left it.
---@param stale? fun()
---@return boolean
function M.accept(stale)
  return require('codeclippy.ghost').accept('all', stale)
end

---@param stale? fun()
---@return boolean
function M.accept_word(stale)
  return require('codeclippy.ghost').accept('word', stale)
end

---@param stale? fun()
---@return boolean
function M.accept_line(stale)
  return require('codeclippy.ghost').accept('line', stale)
end

---@return boolean
function M.next()
  return require('codeclippy.ghost').cycle(1)
end

---@return boolean
function M.previous()
  return require('codeclippy.ghost').cycle(-1)
end

---@return boolean
function M.dismiss()
  return require('codeclippy.ghost').dismiss()
end

--- Have the server edit by message: the lines given (first and last, from 1), else the function around the cursor.
--- Without a message a small window asks for it.
---@param message? string
---@param lines? [integer, integer]
function M.edit(message, lines)
  local buffer = vim.api.nvim_get_current_buf()
  local client = M.client(buffer)
  if not client then
    return say('does not run for this buffer; see :checkhealth codeclippy', vim.log.levels.WARN)
  end
  if not message or message == '' then
    return require('codeclippy.prompt').ask(function(answer)
      M.edit(answer, lines)
    end)
  end
  local cursor = vim.api.nvim_win_get_cursor(0)[1] - 1
  local range = { start = { line = cursor, character = 0 }, ['end'] = { line = cursor, character = 0 } }
  if lines then -- up to the start of the line below them
    range = { start = { line = lines[1] - 1, character = 0 }, ['end'] = { line = lines[2], character = 0 } }
  end
  client:exec_cmd({
    title = message,
    command = 'codeclippy.edit',
    arguments = {
      {
        uri = vim.uri_from_bufnr(buffer),
        message = message,
        range = range,
      },
    },
  }, { bufnr = buffer })
end

--- Cancel the edits that are being written.
function M.cancel()
  local count = require('codeclippy.status').cancel(M.client())
  say(count > 0 and 'cancelled' or 'nothing to cancel')
end

--- A word for the statusline: empty when all is well and idle. `User CodeClippyStatus` fires when it changes.
---@return string
function M.statusline()
  return require('codeclippy.status').text()
end

local verbs = {
  pause = function(client)
    require('codeclippy.ghost').enable(client, vim.api.nvim_get_current_buf(), false)
    say('no suggestions in this buffer until :CodeClippy resume')
  end,
  resume = function(client)
    require('codeclippy.ghost').enable(client, vim.api.nvim_get_current_buf(), true)
    say('suggestions are on')
  end,
  cancel = function()
    M.cancel()
  end,
  reload = function(client)
    client:exec_cmd({ title = 'reload', command = 'codeclippy.reloadModel', arguments = {} })
  end,
  figures = function(client)
    client:exec_cmd({ title = 'figures', command = 'codeclippy.showMetrics', arguments = {} })
  end,
  status = function()
    say(require('codeclippy.status').sentence())
  end,
}

--- What `:CodeClippy` takes.
M.commands = vim.tbl_keys(verbs)
table.sort(M.commands)

---@param name string
function M.command(name)
  local verb, client = verbs[name], M.client()
  if not verb then
    return say(('no %q; there are %s'):format(name, table.concat(M.commands, ', ')), vim.log.levels.ERROR)
  end
  if not client then
    return say('does not run for this buffer; see :checkhealth codeclippy', vim.log.levels.WARN)
  end
  verb(client)
end

return M
