--- The server's state for the statusline, and the edits in progress, so that they can be cancelled.
local M = {}

---@type { state: string, message: string }
local status = { state = 'absent', message = '' }
---@type table<integer|string, true> progress tokens of edits in progress
local edits = {}

--- Request a suggestion again: the last answer was empty, because the model was loading or the time was up.
function M.request_again()
  if vim.api.nvim_get_mode().mode:sub(1, 1) == 'i' then
    vim.api.nvim_exec_autocmds('CursorMovedI', { buffer = 0, modeline = false })
  end
end

--- Handler of `codeclippy/status`.
---@param params { state: string, message?: string }
---@param _ lsp.HandlerContext
function M.set(params, _)
  local is_ready_again = params.state == 'ready' and status.state ~= 'ready'
  status = { state = params.state, message = params.message or '' }
  vim.schedule(function()
    if is_ready_again then
      M.request_again()
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
    require('codeclippy.progress').update(params.token, params.value)
    if params.value.kind == 'begin' and params.value.cancellable then
      edits[params.token] = true
    elseif params.value.kind == 'end' then
      edits[params.token] = nil
    end
    vim.cmd.redrawstatus()
  end,
})

--- Times of unexpected exits of the server, in milliseconds since the start of the editor.
---@type number[]
local exits = {}
local MAX_RESTARTS, PERIOD = 3, 180000

---@param state string
---@param message string
local function report_exit(state, message)
  M.set({ state = state, message = message }, {})
  vim.schedule(function()
    require('codeclippy.message').replace_next('Code Clippy: ' .. message, vim.log.levels.WARN)
  end)
end

--- Start the server again after an unexpected exit, unless there were too many.
---@param code integer
---@param signal integer
function M.on_exit(code, signal)
  edits = {}
  vim.schedule(require('codeclippy.progress').clear)
  local is_expected = code == 0 and (signal == 0 or signal == 15) -- Neovim stops a server by force with 15
  if is_expected or vim.v.exiting ~= vim.NIL then
    return
  end
  local now = vim.uv.now()
  exits = vim.tbl_filter(function(time)
    return now - time < PERIOD
  end, exits)
  table.insert(exits, now)
  if #exits > MAX_RESTARTS then
    report_exit('failed', 'the server keeps crashing; see :checkhealth codeclippy')
    return
  end
  report_exit('loading', 'the server crashed and is restarting')
  vim.defer_fn(function()
    vim.lsp.enable('codeclippy')
  end, 500 * #exits)
end

--- Cancel all edits in progress; return their number.
---@param client? vim.lsp.Client
---@return integer
function M.cancel_edits(client)
  local count = 0
  for token in pairs(edits) do
    if client then
      client:notify('window/workDoneProgress/cancel', { token = token })
      count = count + 1
    end
  end
  return count
end

--- The status in a word or two for the statusline; empty if all is well.
---@return string
function M.statusline()
  if next(edits) then
    return 'Clippy: editing'
  end
  return status.state == 'loading' and 'Clippy: loading' or status.state == 'failed' and 'Clippy: failed' or ''
end

--- The status with the server's message.
---@return string
function M.describe()
  return status.message ~= '' and ('%s: %s'):format(status.state, status.message) or status.state
end

---@return string
function M.state()
  return status.state
end

return M
