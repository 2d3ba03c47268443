--- The functions and commands for the user: accept suggestions, edit by message, pause. The server alone knows models.
local M = {}

local NAME = 'codeclippy'
local NO_SERVER = 'no server is attached to this buffer; see :checkhealth codeclippy'

local NOT_INSTALLED = 'codeclippy-ls is not installed; see :help codeclippy-install'
local STARTING = 'The server is starting for this file.'

--- Insert-mode keys, mapped in the server's buffers unless `vim.g.codeclippy_keys` is false.
local KEYS = {
  { '<Tab>', 'accept', 'accept the suggestion' },
  { '<M-Right>', 'accept_word', 'accept the next word' },
  { '<M-C-Right>', 'accept_line', 'accept the next line' },
  { '<M-Bslash>', 'suggest', 'ask for suggestions' },
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
local function show_message(text, level)
  require('codeclippy.message').show('Code Clippy: ' .. text, level)
end

--- The key's own function, for when there is no suggestion: Neovim's default.
---@param key string
---@return string
local function default_keys(key)
  if key == '<Tab>' and vim.snippet and vim.snippet.active({ direction = 1 }) then
    return '<Cmd>lua vim.snippet.jump(1)<CR>'
  end
  return key
end

--- The key is not mapped, or only by Neovim itself; a user's mapping is kept.
---@param key string
---@return boolean
local function is_free(key)
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
      local key, name, description = row[1], row[2], row[3]
      if is_free(key) then
        vim.keymap.set('i', key, function()
          local function feed_default()
            vim.api.nvim_feedkeys(vim.keycode(default_keys(key)), 'in', false)
          end
          if not M[name](feed_default) then
            feed_default()
          end
        end, { buffer = buffer, desc = 'Code Clippy: ' .. description })
      end
    end
  end)
end

--- Set up a buffer; called by `lsp/codeclippy.lua` for each one that the server attaches to.
---@param client vim.lsp.Client
---@param buffer integer
function M.attach(client, buffer)
  require('codeclippy.ghost').enable(client, buffer, true)
  require('codeclippy.menu').enable(client, buffer)
  require('codeclippy.cursor').enable(client, buffer)
  if not vim.b[buffer].codeclippy_mapped then
    vim.b[buffer].codeclippy_mapped = true
    map_keys(buffer)
  end
end

--- Accept the whole suggestion. All of these return true if there was one; `on_stale` is called if Neovim notices later
--- that the text no longer matches it.
---@param on_stale? fun()
---@return boolean
function M.accept(on_stale)
  return require('codeclippy.ghost').accept('all', on_stale)
end

---@param on_stale? fun()
---@return boolean
function M.accept_word(on_stale)
  return require('codeclippy.ghost').accept('word', on_stale)
end

---@param on_stale? fun()
---@return boolean
function M.accept_line(on_stale)
  return require('codeclippy.ghost').accept('line', on_stale)
end

--- Ask for suggestions: with more time, and for several.
---@return boolean is_asked
function M.suggest()
  local client = M.client()
  if not client then
    show_message(NO_SERVER, vim.log.levels.WARN)
    return true
  end
  return require('codeclippy.ghost').request_by_key(client)
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

--- Edit by message: `lines` (first and last, from 1), or the function around the cursor. Without a message, a small
--- window asks for it.
---@param message? string
---@param lines? [integer, integer]
function M.edit(message, lines)
  local buffer = vim.api.nvim_get_current_buf()
  local client = M.client(buffer)
  if not client then
    return show_message(NO_SERVER, vim.log.levels.WARN)
  end
  if not message or message == '' then
    return require('codeclippy.prompt').ask(function(answer)
      M.edit(answer, lines)
    end)
  end
  local cursor = vim.api.nvim_win_get_cursor(0)[1] - 1
  local range = { start = { line = cursor, character = 0 }, ['end'] = { line = cursor, character = 0 } }
  if lines then -- up to the start of the next line
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

--- Cancel the edits in progress.
function M.cancel()
  local count = require('codeclippy.status').cancel_edits(M.client())
  show_message(count > 0 and 'cancelled' or 'no edit is in progress')
end

--- The status for the statusline; empty if all is well. `User CodeClippyStatus` fires when it changes.
---@return string
function M.statusline()
  return require('codeclippy.status').statusline()
end

local subcommands = {
  pause = function(client)
    require('codeclippy.ghost').enable(client, vim.api.nvim_get_current_buf(), false)
    show_message('suggestions are off in this buffer until :CodeClippy resume')
  end,
  resume = function(client)
    require('codeclippy.ghost').enable(client, vim.api.nvim_get_current_buf(), true)
    show_message('suggestions are on')
  end,
  cancel = function()
    M.cancel()
  end,
  reload = function(client)
    client:exec_cmd({ title = 'reload', command = 'codeclippy.reloadModel', arguments = {} })
  end,
  model = function(client)
    require('codeclippy.model').choose(client, vim.api.nvim_get_current_buf())
  end,
  context = function(client)
    local place = vim.lsp.util.make_position_params(0, client.offset_encoding)
    local argument = { uri = place.textDocument.uri, position = place.position }
    client:exec_cmd({ title = 'context', command = 'codeclippy.showContext', arguments = { argument } })
  end,
  metrics = function(client)
    client:exec_cmd({ title = 'metrics', command = 'codeclippy.showMetrics', arguments = {} })
  end,
  status = function()
    show_message(require('codeclippy.status').describe())
  end,
}

local descriptions = {
  cancel = 'cancel the edit in progress',
  context = 'show what the model sees of other files here',
  metrics = 'count the suggestions that were accepted',
  pause = 'turn suggestions off in this buffer',
  reload = 'load the model again, after a failure',
  resume = 'turn suggestions on again',
  status = "show the server's status",
}

--- The subcommands of `:CodeClippy`.
M.commands = vim.tbl_keys(subcommands)
table.sort(M.commands)

--- Run a subcommand; without a name, show what there is.
---@param name string
function M.command(name)
  local subcommand, client = subcommands[name], M.client()
  if name == '' then
    local status = 'Status: ' .. require('codeclippy.status').describe()
    if not client then
      status = require('codeclippy.health').find_missing() and NOT_INSTALLED or STARTING
      vim.lsp.enable(NAME) -- the program may have been installed since the file was opened
    end
    return require('codeclippy.about').show(status, KEYS, descriptions)
  end
  if not subcommand then
    local names = table.concat(M.commands, ', ')
    return show_message(('unknown command %q; expected one of %s'):format(name, names), vim.log.levels.ERROR)
  end
  if not client then
    return show_message(NO_SERVER, vim.log.levels.WARN)
  end
  subcommand(client)
end

return M
