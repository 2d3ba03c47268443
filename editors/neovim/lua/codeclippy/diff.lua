--- The diff that the server shows before it asks about an edit: one window, which closes when the question is answered.
local M = {}

---@type integer?
local window

--- Handler of `window/showDocument`. The text goes into a buffer of no file: the server's is read-only and goes with it.
---@param params lsp.ShowDocumentParams
---@return lsp.ShowDocumentResult
function M.show(params)
  local read, lines = pcall(vim.fn.readfile, vim.uri_to_fname(params.uri))
  if not read then
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
    -- On top: the question pushes up what is at the bottom.
    window = vim.api.nvim_open_win(buffer, false, { split = 'above', win = -1, height = height, style = 'minimal' })
  end
  vim.wo[window].winfixbuf = true
  return { success = true }
end

--- Handler of `window/showMessageRequest`: Neovim's own question, and the diff goes when it is answered.
---@param ... any
---@return any
function M.ask(...)
  vim.cmd.redraw() -- the question is about a diff that was opened just now, and it blocks
  local answer = vim.lsp.handlers['window/showMessageRequest'](...)
  if window and vim.api.nvim_win_is_valid(window) then
    vim.api.nvim_win_close(window, true)
  end
  window = nil
  return answer
end

return M
