--- Applies the server's edits; shows the diff first if the server asks for confirmation. If the buffer's version is not
--- the one that the edit was made for, nothing is applied, and the server gets the reason.
local M = {}

---@param edits lsp.TextEdit[]
---@return lsp.TextEdit[]
local function strip_annotations(edits)
  return vim.tbl_map(function(edit)
    return { range = edit.range, newText = edit.newText }
  end, edits)
end

--- Compare the buffer's text with its text after the edits, as a unified diff.
---@param buffer integer
---@param edits lsp.TextEdit[]
---@param encoding string
---@return string[]
local function make_diff(buffer, edits, encoding)
  local old = vim.api.nvim_buf_get_lines(buffer, 0, -1, false)
  local scratch = vim.api.nvim_create_buf(false, true)
  vim.api.nvim_buf_set_lines(scratch, 0, -1, false, old)
  vim.lsp.util.apply_text_edits(vim.deepcopy(edits), scratch, encoding)
  local new = vim.api.nvim_buf_get_lines(scratch, 0, -1, false)
  vim.api.nvim_buf_delete(scratch, { force = true })
  local compare = vim.text and vim.text.diff or vim.diff
  local text = compare(table.concat(old, '\n') .. '\n', table.concat(new, '\n') .. '\n', { ctxlen = 3 })
  return vim.split(vim.trim(text --[[@as string]]), '\n', { plain = true })
end

--- Show a diff and call `on_answer` with the user's answer, once.
---@param lines string[]
---@param title string
---@param on_answer fun(accepted: boolean)
local function ask(lines, title, on_answer)
  local buffer = vim.api.nvim_create_buf(false, true)
  vim.api.nvim_buf_set_lines(buffer, 0, -1, false, lines)
  vim.bo[buffer].modifiable, vim.bo[buffer].bufhidden, vim.bo[buffer].filetype = false, 'wipe', 'diff'
  local width = 40
  for _, line in ipairs(lines) do
    width = math.max(width, vim.fn.strdisplaywidth(line) + 1)
  end
  width = math.min(width, vim.o.columns - 4)
  local height = math.max(1, math.min(#lines, vim.o.lines - 6))
  local window = vim.api.nvim_open_win(buffer, true, {
    relative = 'editor',
    row = math.max(0, math.floor((vim.o.lines - height) / 2) - 1),
    col = math.max(0, math.floor((vim.o.columns - width) / 2)),
    width = width,
    height = height,
    style = 'minimal',
    border = 'rounded',
    title = (' %s '):format(title),
    footer = ' y apply   n discard ',
  })
  local is_answered = false
  ---@param accepted boolean
  local function answer(accepted)
    if is_answered then
      return
    end
    is_answered = true
    if vim.api.nvim_win_is_valid(window) then
      vim.api.nvim_win_close(window, true)
    end
    on_answer(accepted)
  end
  for key, accepted in pairs({ y = true, ['<CR>'] = true, n = false, q = false, ['<Esc>'] = false }) do
    vim.keymap.set('n', key, function()
      answer(accepted)
    end, { buffer = buffer, nowait = true })
  end
  vim.api.nvim_create_autocmd({ 'BufWipeout', 'BufLeave' }, {
    buffer = buffer,
    once = true,
    callback = vim.schedule_wrap(function()
      answer(false)
    end),
  })
end

---@param change lsp.TextDocumentEdit
---@return integer? buffer
---@return string? problem
local function find_target(change)
  local buffer = vim.uri_to_bufnr(change.textDocument.uri)
  if not vim.api.nvim_buf_is_loaded(buffer) then
    return nil, 'the document is not open'
  end
  local version = change.textDocument.version
  if type(version) == 'number' and vim.lsp.util.buf_versions[buffer] ~= version then
    return nil, 'the document has changed'
  end
  if not vim.bo[buffer].modifiable then
    return nil, 'the buffer is not modifiable'
  end
  return buffer
end

--- Handler of `workspace/applyEdit`. It runs in a coroutine, so it can wait for the user's answer.
---@param params lsp.ApplyWorkspaceEditParams
---@param context lsp.HandlerContext
---@return lsp.ApplyWorkspaceEditResult
function M.apply(params, context)
  local client = assert(vim.lsp.get_client_by_id(context.client_id))
  local change = (params.edit.documentChanges or {})[1]
  if not change or not change.edits or #params.edit.documentChanges ~= 1 then
    return { applied = false, failureReason = 'only edits of a single document are supported' }
  end
  local buffer, problem = find_target(change)
  if not buffer then
    return { applied = false, failureReason = problem }
  end
  local edits = strip_annotations(change.edits)
  local needs_confirmation = false
  for _, annotation in pairs(params.edit.changeAnnotations or {}) do
    needs_confirmation = needs_confirmation or annotation.needsConfirmation == true
  end
  if needs_confirmation then
    local thread = assert(coroutine.running())
    local accepted = nil ---@type boolean?
    ask(make_diff(buffer, edits, client.offset_encoding), params.label or 'Code Clippy', function(answer)
      accepted = answer
      if coroutine.status(thread) == 'suspended' then
        coroutine.resume(thread)
      end
    end)
    if accepted == nil then
      coroutine.yield()
    end
    if not accepted then
      return { applied = false, failureReason = 'discarded' }
    end
    buffer, problem = find_target(change) -- the text may have changed while the diff was open
    if not buffer then
      return { applied = false, failureReason = problem }
    end
  end
  vim.lsp.util.apply_text_edits(edits, buffer, client.offset_encoding)
  return { applied = true }
end

return M
