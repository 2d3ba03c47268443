--- A floating window of one line that asks for the message of an edit. Up and Down show earlier messages.
local M = {}

---@param on_message fun(message: string)
function M.ask(on_message)
  local buffer = vim.api.nvim_create_buf(false, true)
  vim.bo[buffer].bufhidden = 'wipe'
  local window = vim.api.nvim_open_win(buffer, true, {
    relative = 'cursor',
    row = 1,
    col = 0,
    width = math.max(20, math.min(60, vim.o.columns - 4)),
    height = 1,
    style = 'minimal',
    border = 'rounded',
    title = ' Edit: what should change? ',
  })
  vim.cmd.startinsert()

  local function close()
    vim.cmd.stopinsert()
    if vim.api.nvim_win_is_valid(window) then
      vim.api.nvim_win_close(window, true)
    end
  end
  local index = 0 -- in the history, from the end; 0 is a new message
  ---@param step integer
  local function show_history(step)
    index = math.max(0, math.min(index + step, vim.fn.histnr('@')))
    local text = index > 0 and vim.fn.histget('@', -index) or ''
    vim.api.nvim_buf_set_lines(buffer, 0, -1, false, { text })
    vim.api.nvim_win_set_cursor(window, { 1, #text })
  end
  local function map(keys, action)
    for _, key in ipairs(keys) do
      vim.keymap.set({ 'i', 'n' }, key, action, { buffer = buffer, nowait = true })
    end
  end
  map({ '<CR>' }, function()
    local message = vim.trim(vim.api.nvim_buf_get_lines(buffer, 0, 1, false)[1] or '')
    close()
    if message ~= '' then
      vim.fn.histadd('@', message)
      vim.schedule(function()
        on_message(message)
      end)
    end
  end)
  map({ '<Esc>', '<C-c>' }, close)
  map({ '<Up>', '<C-p>' }, function()
    show_history(1)
  end)
  map({ '<Down>', '<C-n>' }, function()
    show_history(-1)
  end)
end

return M
