--- The completion menu is Neovim's own; of a plain item it inserts the first word (0.11) or the first line (0.12) alone.
--- Here the item's own text edit takes the place of that, once it is accepted.
local M = {}

--- The whole item where the menu has inserted its beginning.
local function finish()
  local inserted = vim.v.completed_item
  local ours = vim.tbl_get(inserted, 'user_data', 'nvim', 'lsp') or {}
  local client = ours.client_id and vim.lsp.get_client_by_id(ours.client_id)
  local edit = vim.tbl_get(ours, 'completion_item', 'textEdit')
  if not client or client.name ~= 'codeclippy' or not edit or vim.v.event.reason ~= 'accept' then
    return
  end
  local row, col = unpack(vim.api.nvim_win_get_cursor(0))
  local begin = col - #inserted.word
  if edit.range.start.line ~= row - 1 or vim.api.nvim_get_current_line():sub(begin + 1, col) ~= inserted.word then
    return
  end
  local lines = vim.split(edit.newText, '\r?\n')
  vim.api.nvim_buf_set_text(0, row - 1, begin, row - 1, col, lines)
  local last = #lines[#lines]
  vim.api.nvim_win_set_cursor(0, { row + #lines - 1, #lines == 1 and begin + last or last })
end

---@param client vim.lsp.Client
---@param buffer integer
function M.enable(client, buffer)
  vim.lsp.completion.enable(true, client.id, buffer)
  vim.api.nvim_create_autocmd('CompleteDone', {
    group = vim.api.nvim_create_augroup('codeclippy.menu.' .. buffer, { clear = true }),
    buffer = buffer,
    callback = finish,
  })
end

return M
