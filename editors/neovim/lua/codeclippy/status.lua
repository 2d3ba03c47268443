--- What the server is doing, for the statusline, and the edits under way, to cancel them.
local M = {}

---@type { state: string, message: string }
local last = { state = 'absent', message = '' }
---@type table<integer|string, true>
local running = {}

---@param params { state: string, message?: string }
---@param _ lsp.HandlerContext
function M.set(params, _)
  local now_ready = params.state == 'ready' and last.state ~= 'ready'
  last = { state = params.state, message = params.message or '' }
  vim.schedule(function()
    if now_ready and vim.api.nvim_get_mode().mode:sub(1, 1) == 'i' then
      -- What was asked for while the model loaded was answered with nothing: ask again.
      vim.api.nvim_exec_autocmds('CursorMovedI', { buffer = 0, modeline = false })
    end
    vim.api.nvim_exec_autocmds('User', { pattern = 'CodeClippyStatus', modeline = false })
    vim.cmd.redrawstatus()
  end)
end

vim.api.nvim_create_autocmd('LspProgress', {
  group = vim.api.nvim_create_augroup('codeclippy.status', { clear = true }),
  callback = function(event)
    local client = vim.lsp.get_client_by_id(event.data.client_id)
    local params = event.data.params
    if not client or client.name ~= 'codeclippy' or type(params.value) ~= 'table' then
      return
    end
    if params.value.kind == 'begin' and params.value.cancellable then
      running[params.token] = true
    elseif params.value.kind == 'end' then
      running[params.token] = nil
    end
    vim.cmd.redrawstatus()
  end,
})

--- When the server went away by itself, in milliseconds since the start of the editor.
---@type number[]
local deaths = {}
local MOST_DEATHS, WITHIN = 3, 180000

---@param state string
---@param message string
local function ended(state, message)
  M.set({ state = state, message = message }, {})
  vim.schedule(function()
    require('codeclippy.say').instead('Code Clippy: ' .. message, vim.log.levels.WARN)
  end)
end

--- Start the server again where it died, but not for ever.
---@param code integer
---@param signal integer
function M.exited(code, signal)
  running = {}
  local on_purpose = code == 0 and (signal == 0 or signal == 15) -- 15 is how Neovim stops a server by force
  if on_purpose or vim.v.exiting ~= vim.NIL then
    return
  end
  local now = vim.uv.now()
  deaths = vim.tbl_filter(function(time)
    return now - time < WITHIN
  end, deaths)
  table.insert(deaths, now)
  if #deaths > MOST_DEATHS then
    ended('failed', 'the server keeps dying; see :checkhealth codeclippy')
    return
  end
  ended('loading', 'the server died and is started again')
  vim.defer_fn(function()
    vim.lsp.enable('codeclippy')
  end, 500 * #deaths)
end

--- Cancel everything cancellable; returns how many.
---@param client? vim.lsp.Client
---@return integer
function M.cancel(client)
  local count = 0
  for token in pairs(running) do
    if client then
      client:notify('window/workDoneProgress/cancel', { token = token })
      count = count + 1
    end
  end
  return count
end

---@return string
function M.text()
  if next(running) then
    return 'Clippy: writing'
  end
  return last.state == 'loading' and 'Clippy: loading' or last.state == 'failed' and 'Clippy: failed' or ''
end

---@return string
function M.sentence()
  return last.message ~= '' and ('%s: %s'):format(last.state, last.message) or last.state
end

---@return string
function M.state()
  return last.state
end

return M
