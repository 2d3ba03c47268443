--- A line in a floating window that asks for an edit's message. Up and Down walk through earlier ones.
local M = {}

---@param done fun(message: string)
function M.ask(done)
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
    title = ' Edit: what shall change? ',
  })
  vim.cmd.startinsert()

  local function close()
    vim.cmd.stopinsert()
    if vim.api.nvim_win_is_valid(window) then
      vim.api.nvim_win_close(window, true)
    end
  end
  local at = 0
  ---@param step integer
  local function earlier(step)
    at = math.max(0, math.min(at + step, vim.fn.histnr('@')))
    local text = at > 0 and vim.fn.histget('@', -at) or ''
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
        done(message)
      end)
    end
  end)
  map({ '<Esc>', '<C-c>' }, close)
  map({ '<Up>', '<C-p>' }, function()
    earlier(1)
  end)
  map({ '<Down>', '<C-n>' }, function()
    earlier(-1)
  end)
end

return M
