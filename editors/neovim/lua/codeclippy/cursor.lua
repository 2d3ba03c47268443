--- Tells the server where the cursor rests: the model reads the text around it, so that the first key there is fast.
local M = {}

local DELAY = 300 -- milliseconds without a movement

---@type table<integer, uv.uv_timer_t>
local timers = {}

---@param client vim.lsp.Client
---@param buffer integer
local function send(client, buffer)
  if vim.api.nvim_get_current_buf() == buffer and not client:is_stopped() then
    client:notify('codeclippy/cursor', vim.lsp.util.make_position_params(0, client.offset_encoding))
  end
end

---@param buffer integer
local function stop_timer(buffer)
  local timer = timers[buffer]
  timers[buffer] = nil
  if timer and not timer:is_closing() then
    timer:stop()
    timer:close()
  end
end

--- Send the cursor's places in a buffer, one for each line where it rests.
---@param client vim.lsp.Client
---@param buffer integer
function M.enable(client, buffer)
  local group = vim.api.nvim_create_augroup('codeclippy.cursor.' .. buffer, { clear = true })
  local last_line
  local function on_moved()
    if vim.api.nvim_get_current_buf() ~= buffer or vim.api.nvim_win_get_cursor(0)[1] == last_line then
      return
    end
    stop_timer(buffer)
    timers[buffer] = vim.defer_fn(function()
      stop_timer(buffer)
      if vim.api.nvim_get_current_buf() == buffer then
        last_line = vim.api.nvim_win_get_cursor(0)[1]
        send(client, buffer)
      end
    end, DELAY)
  end
  vim.api.nvim_create_autocmd({ 'BufEnter', 'CursorMoved' }, { group = group, buffer = buffer, callback = on_moved })
  vim.api.nvim_create_autocmd({ 'BufDelete', 'LspDetach' }, {
    group = group,
    buffer = buffer,
    callback = function(event)
      if event.event == 'BufDelete' or event.data.client_id == client.id then
        stop_timer(buffer)
        vim.api.nvim_del_augroup_by_id(group)
      end
    end,
  })
  on_moved()
end

return M
