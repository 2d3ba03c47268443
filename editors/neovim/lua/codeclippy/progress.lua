--- Shows at the right of the cursor's line that the model is loading, and at the line of an edit how far it is written:
--- nobody has to set up a statusline for that.
local M = {}

local namespace = vim.api.nvim_create_namespace('codeclippy.progress')
local DELAY = 400 -- milliseconds: what is faster needs no word

---@class codeclippy.Task
---@field buffer integer
---@field mark integer
---@field title string
---@field text string
---@field position 'eol'|'right_align'

---@type table<integer|string, codeclippy.Task> by progress token
local tasks = {}

---@param task codeclippy.Task
local function draw(task)
  if not vim.api.nvim_buf_is_valid(task.buffer) then
    return
  end
  local ok, place = pcall(vim.api.nvim_buf_get_extmark_by_id, task.buffer, namespace, task.mark, {})
  if ok and place[1] then
    vim.api.nvim_buf_set_extmark(task.buffer, namespace, place[1], 0, {
      id = task.mark,
      virt_text = { { task.text, 'DiagnosticVirtualTextInfo' } },
      virt_text_pos = task.position,
    })
  end
end

---@param token integer|string
local function forget(token)
  local task = tasks[token]
  tasks[token] = nil
  if task and vim.api.nvim_buf_is_valid(task.buffer) then
    vim.api.nvim_buf_del_extmark(task.buffer, namespace, task.mark)
  end
end

---@param value table of a progress notification
---@param title string
---@return string
local function describe(value, title)
  local detail = value.message ~= '' and value.message or nil
  if value.percentage then
    detail = ('%s%d %%'):format(detail and detail .. ', ' or '', value.percentage)
  end
  return ' ' .. (detail and ('%s: %s'):format(title, detail) or title) .. ' '
end

--- Handle a progress notification of the server.
---@param token integer|string
---@param value table
function M.update(token, value)
  local task = tasks[token]
  if value.kind == 'end' then
    return forget(token)
  elseif value.kind == 'report' and task then
    task.text = describe(value, task.title)
    return draw(task)
  elseif value.kind ~= 'begin' then
    return
  end
  local buffer, row = vim.api.nvim_get_current_buf(), vim.api.nvim_win_get_cursor(0)[1] - 1
  tasks[token] = {
    buffer = buffer,
    mark = vim.api.nvim_buf_set_extmark(buffer, namespace, row, 0, {}),
    title = value.title,
    text = describe(value, value.title),
    position = value.cancellable and 'eol' or 'right_align', -- an edit stays at its line
  }
  vim.defer_fn(function()
    if tasks[token] then
      draw(tasks[token])
    end
  end, DELAY)
end

--- Forget all tasks: the server has exited.
function M.clear()
  for token in pairs(tasks) do
    forget(token)
  end
end

return M
