--- The diff that the server shows before it asks about an edit: in one window, which closes with the answer.
local M = {}

---@type integer?
local window

--- Handler of `window/showDocument`: copies the file into a scratch buffer, as the server deletes it afterwards.
---@param params lsp.ShowDocumentParams
---@return lsp.ShowDocumentResult
function M.show(params)
  local ok, lines = pcall(vim.fn.readfile, vim.uri_to_fname(params.uri))
  if not ok then
    return { success = false }
  end
  local buffer = vim.api.nvim_create_buf(false, true)
  vim.api.nvim_buf_set_lines(buffer, 0, -1, false, lines)
  vim.bo[buffer].modifiable, vim.bo[buffer].bufhidden, vim.bo[buffer].filetype = false, 'wipe', 'diff'
  local height = math.max(1, math.min(#lines, math.floor(vim.o.lines / 2)))
  if window and vim.api.nvim_win_is_valid(window) then
    vim.wo[window].winfixbuf = false
    vim.api.nvim_win_set_buf(window, buffer)
    vim.api.nvim_win_set_height(window, height)
  else
    -- At the top: the question takes its room from the bottom.
    window = vim.api.nvim_open_win(buffer, false, { split = 'above', win = -1, height = height, style = 'minimal' })
  end
  vim.wo[window].winfixbuf = true
  return { success = true }
end

--- Handler of `window/showMessageRequest`: asks with Neovim's own handler, then closes the diff.
---@param ... any
---@return any
function M.ask(...)
  vim.cmd.redraw() -- the diff was opened just now, and the question blocks
  local answer = vim.lsp.handlers['window/showMessageRequest'](...)
  if window and vim.api.nvim_win_is_valid(window) then
    vim.api.nvim_win_close(window, true)
  end
  window = nil
  return answer
end

return M
