--- A window that says what the client can do here, by which keys and commands. Any of the usual keys closes it.
local M = {}

local CLOSE = { 'q', '<Esc>', '<CR>' }

---@param status string
---@param keys string[][] key, function, description
---@param commands table<string, string> descriptions by name
function M.show(status, keys, commands)
  local lines = { status, '', 'In insert mode' }
  for _, row in ipairs(keys) do
    table.insert(lines, ('  %-28s%s'):format((row[1]:gsub('Bslash', '\\')), row[3]))
  end
  vim.list_extend(lines, { '', 'Commands', ('  %-28s%s'):format(':CodeClippyEdit [message]', 'edit by a message') })
  local names = vim.tbl_keys(commands)
  table.sort(names)
  for _, name in ipairs(names) do
    table.insert(lines, ('  %-28s%s'):format(':CodeClippy ' .. name, commands[name]))
  end
  vim.list_extend(lines, { '', 'More: :help codeclippy, :checkhealth codeclippy' })
  local buffer = vim.api.nvim_create_buf(false, true)
  vim.api.nvim_buf_set_lines(buffer, 0, -1, false, lines)
  vim.bo[buffer].modifiable, vim.bo[buffer].bufhidden = false, 'wipe'
  local width = math.min(72, vim.o.columns - 4)
  local height = math.max(1, math.min(#lines, vim.o.lines - 4))
  local window = vim.api.nvim_open_win(buffer, true, {
    relative = 'editor',
    row = math.max(0, math.floor((vim.o.lines - height) / 2) - 1),
    col = math.max(0, math.floor((vim.o.columns - width) / 2)),
    width = width,
    height = height,
    style = 'minimal',
    border = 'rounded',
    title = ' Code Clippy ',
    footer = ' q closes ',
  })
  local function close()
    if vim.api.nvim_win_is_valid(window) then
      vim.api.nvim_win_close(window, true)
    end
  end
  for _, key in ipairs(CLOSE) do
    vim.keymap.set('n', key, close, { buffer = buffer, nowait = true })
  end
  vim.api.nvim_create_autocmd('BufLeave', { buffer = buffer, once = true, callback = vim.schedule_wrap(close) })
end

return M
