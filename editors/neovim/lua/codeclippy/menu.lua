--- The completion menu is Neovim's own. It inserts only the first word (0.11) or the first line (0.12) of an item. Here
--- the accepted item's text edit replaces that.
local M = {}

--- Insert the rest of the item that was accepted in the menu.
local function apply_item()
  local completed = vim.v.completed_item
  local data = vim.tbl_get(completed, 'user_data', 'nvim', 'lsp') or {}
  local client = data.client_id and vim.lsp.get_client_by_id(data.client_id)
  local edit = vim.tbl_get(data, 'completion_item', 'textEdit')
  if not client or client.name ~= 'codeclippy' or not edit or vim.v.event.reason ~= 'accept' then
    return
  end
  local row, col = unpack(vim.api.nvim_win_get_cursor(0))
  local start = col - #completed.word
  if edit.range.start.line ~= row - 1 or vim.api.nvim_get_current_line():sub(start + 1, col) ~= completed.word then
    return
  end
  local lines = vim.split(edit.newText, '\r?\n')
  vim.api.nvim_buf_set_text(0, row - 1, start, row - 1, col, lines)
  local last = #lines[#lines]
  vim.api.nvim_win_set_cursor(0, { row + #lines - 1, #lines == 1 and start + last or last })
end

---@param client vim.lsp.Client
---@param buffer integer
function M.enable(client, buffer)
  vim.lsp.completion.enable(true, client.id, buffer)
  vim.api.nvim_create_autocmd('CompleteDone', {
    group = vim.api.nvim_create_augroup('codeclippy.menu.' .. buffer, { clear = true }),
    buffer = buffer,
    callback = apply_item,
  })
end

return M
