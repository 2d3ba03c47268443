--- Ghost text: Neovim's own inline completion where there is one (0.12), else drawn here with extmarks (0.11).
--- An answer that comes after the cursor or the text has moved is dropped; at most one request is under way.
local M = {}

local native = vim.lsp.inline_completion
local namespace = vim.api.nvim_create_namespace('codeclippy.ghost')
local DEBOUNCE = 120 -- milliseconds after the last key

---@class codeclippy.Shown
---@field items lsp.InlineCompletionItem[]
---@field index integer
---@field row integer 0-based
---@field col integer bytes, 0-based: where the text of the items begins
---@field client vim.lsp.Client

---@class codeclippy.Buffer
---@field shown? codeclippy.Shown
---@field request? integer
---@field timer? uv.uv_timer_t

---@type table<integer, codeclippy.Buffer>
local buffers = {}

--- The part of a suggestion that is accepted.
---@param text string
---@param part 'all'|'word'|'line'
---@return string
function M.part(text, part)
  if part == 'word' then
    return text:match('^%s*[%w_\128-\255]+') or text:match('^%s*[^%w_%s\128-\255]+') or text
  end
  return part == 'line' and text:match('^\n?[^\n]*') or text
end

--- Put text at the cursor as one step of undo, and the cursor behind it.
---@param text string
---@param taken? integer bytes after the cursor that it takes the place of
local function insert(text, taken)
  vim.o.undolevels = vim.o.undolevels -- begins a new undo step
  local row, col = unpack(vim.api.nvim_win_get_cursor(0))
  local lines = vim.split(text, '\n', { plain = true })
  vim.api.nvim_buf_set_text(0, row - 1, col, row - 1, col + (taken or 0), lines)
  local last = #lines[#lines]
  vim.api.nvim_win_set_cursor(0, { row + #lines - 1, #lines == 1 and col + last or last })
end

--- What of a suggestion is still to be typed, where it began at a place and the cursor has typed into it since.
---@param text string
---@param row integer
---@param col integer
---@return string?
local function rest(text, row, col)
  local at = vim.api.nvim_win_get_cursor(0)
  if at[1] - 1 ~= row or at[2] < col then
    return nil
  end
  local typed = vim.api.nvim_get_current_line():sub(col + 1, at[2])
  return vim.startswith(text, typed) and #typed < #text and text:sub(#typed + 1) or nil
end

--- How many bytes after the cursor a suggestion takes the place of: closing signs that it brings along, and nothing else.
---@param bytes integer as the server counted them
---@return integer? nil where something else stands there now
local function taken(bytes)
  local col = vim.api.nvim_win_get_cursor(0)[2]
  local after = vim.api.nvim_get_current_line():sub(col + 1, col + bytes)
  return #after == bytes and not after:find('[^%s%)%]}"\'`:;,{]') and bytes or nil
end

--- How many an item says; they are ASCII, so that columns of any encoding are bytes.
---@param item lsp.InlineCompletionItem
---@return integer
local function width(item)
  return item.range and item.range['end'].character - item.range.start.character or 0
end

---@param item lsp.InlineCompletionItem
---@return string
local function text_of(item)
  local text = item.insertText
  return type(text) == 'string' and text or text.value
end

---@param buffer integer
local function hide(buffer)
  if vim.api.nvim_buf_is_valid(buffer) then
    vim.api.nvim_buf_clear_namespace(buffer, namespace, 0, -1)
  end
end

--- Draw what is left of the suggestion, or forget it where the cursor has left it.
---@param buffer integer
local function draw(buffer)
  hide(buffer)
  local shown = buffers[buffer] and buffers[buffer].shown
  if not shown then
    return
  end
  local item = shown.items[shown.index]
  local left, over = rest(text_of(item), shown.row, shown.col), taken(width(item))
  if not left or not over then
    buffers[buffer].shown = nil
    return
  end
  local lines = vim.split(left, '\n', { plain = true })
  local below = vim.tbl_map(function(line)
    return { { line, 'Comment' } }
  end, { unpack(lines, 2) })
  local row, col = unpack(vim.api.nvim_win_get_cursor(0))
  vim.api.nvim_buf_set_extmark(buffer, namespace, row - 1, col, {
    virt_text = { { lines[1], 'Comment' } },
    virt_text_pos = over > 0 and 'overlay' or 'inline', -- over the brackets that it replaces
    virt_lines = #below > 0 and below or nil,
    hl_mode = 'combine',
  })
end

---@param client vim.lsp.Client
---@param buffer integer
---@param kind integer 1 by a key, 2 by typing
local function request(client, buffer, kind)
  local state = buffers[buffer]
  if not state or vim.api.nvim_get_current_buf() ~= buffer or client:is_stopped() then
    return
  end
  if state.request then
    client:cancel_request(state.request)
  end
  local at, tick = vim.api.nvim_win_get_cursor(0), vim.api.nvim_buf_get_changedtick(buffer)
  local params = vim.lsp.util.make_position_params(0, client.offset_encoding)
  ---@diagnostic disable-next-line: inject-field
  params.context = { triggerKind = kind }
  local _, id = client:request('textDocument/inlineCompletion', params, function(err, result, context)
    state.request = state.request ~= context.request_id and state.request or nil
    local items = not err and result and (result.items or result) or nil
    local current = vim.api.nvim_buf_is_valid(buffer)
      and vim.api.nvim_get_current_buf() == buffer
      and vim.api.nvim_buf_get_changedtick(buffer) == tick
      and vim.deep_equal(at, vim.api.nvim_win_get_cursor(0))
      and vim.api.nvim_get_mode().mode:sub(1, 1) == 'i'
    if not items or not current then
      return
    end
    state.shown = items[1] and { items = items, index = 1, row = at[1] - 1, col = at[2], client = client } or nil
    draw(buffer)
  end, buffer)
  state.request = id
end

---@param client vim.lsp.Client
---@param buffer integer
local function moved(client, buffer)
  local state = buffers[buffer]
  if not state then
    return
  end
  draw(buffer) -- typing through what is shown
  if state.timer then
    state.timer:stop()
    state.timer:close()
  end
  state.timer = vim.defer_fn(function()
    state.timer = nil
    request(client, buffer, 2)
  end, DEBOUNCE)
end

---@param client vim.lsp.Client
---@param buffer integer
local function draw_here(client, buffer)
  local group = vim.api.nvim_create_augroup('codeclippy.ghost.' .. buffer, { clear = true })
  buffers[buffer] = {}
  vim.api.nvim_create_autocmd({ 'InsertEnter', 'CursorMovedI', 'TextChangedP' }, {
    group = group,
    buffer = buffer,
    callback = function()
      moved(client, buffer)
    end,
  })
  vim.api.nvim_create_autocmd('InsertLeave', {
    group = group,
    buffer = buffer,
    callback = function()
      M.dismiss()
    end,
  })
  vim.api.nvim_create_autocmd({ 'BufDelete', 'LspDetach' }, {
    group = group,
    buffer = buffer,
    callback = function(event)
      if event.event == 'BufDelete' or event.data.client_id == client.id then
        hide(buffer)
        buffers[buffer] = nil
        vim.api.nvim_del_augroup_by_id(group)
      end
    end,
  })
end

--- Forget a suggestion that the text has left: 0.12 would draw its tail behind whatever is typed until an answer comes.
---@param buffer integer
local function drop_native(buffer)
  local found, capability = pcall(require, 'vim.lsp._capability') -- what is shown cannot be asked for otherwise
  local completor = found and vim.tbl_get(capability, 'all', 'inline_completion', 'active', buffer)
  local item = completor and completor.current
  if item and item.range and type(item.insert_text) == 'string' then
    local row, col = item.range:to_extmark()
    if not rest(item.insert_text, row, col) then
      completor.current = nil
      completor:hide()
    end
  end
end

--- Show suggestions in a buffer, or stop it.
---@param client vim.lsp.Client
---@param buffer integer
---@param on boolean
function M.enable(client, buffer, on)
  if native then
    native.enable(on, { bufnr = buffer })
    local group = vim.api.nvim_create_augroup('codeclippy.ghost.' .. buffer, { clear = true })
    if on then
      vim.api.nvim_create_autocmd({ 'CursorMovedI', 'TextChangedP' }, {
        group = group,
        buffer = buffer,
        callback = function()
          drop_native(buffer)
        end,
      })
    end
  elseif on then
    draw_here(client, buffer)
  else
    hide(buffer)
    buffers[buffer] = nil
    pcall(vim.api.nvim_del_augroup_by_name, 'codeclippy.ghost.' .. buffer)
  end
end

---@param part 'all'|'word'|'line'
---@param stale? fun()
---@return boolean
local function accept_native(part, stale)
  return native.get({
    on_accept = function(item)
      local text = item.insert_text
      if item.client_id ~= (require('codeclippy').client() or {}).id or type(text) ~= 'string' or not item.range then
        return item
      end
      -- 0.12 would insert it again before what has been typed of it since.
      local row, col, end_row, end_col = item.range:to_extmark()
      local over = row == end_row and taken(end_col - col) or nil
      local left = over and rest(text, row, col)
      if not left then
        return stale and stale() -- the text has left it, and 0.12 only has not noticed yet
      end
      local piece = M.part(left, part)
      insert(piece, piece == left and over or 0)
      if part == 'all' and item.command then
        vim.lsp.get_client_by_id(item.client_id):exec_cmd(item.command)
      end
      return nil
    end,
  })
end

--- Accept the suggestion that is shown, or a part of it.
---@param part 'all'|'word'|'line'
---@param stale? fun() called where it turns out later that there was none
---@return boolean whether there was one
function M.accept(part, stale)
  if native then
    return accept_native(part, stale)
  end
  local buffer = vim.api.nvim_get_current_buf()
  local shown = buffers[buffer] and buffers[buffer].shown
  local item = shown and shown.items[shown.index]
  local left = shown and item and rest(text_of(item), shown.row, shown.col)
  local over = item and taken(width(item))
  if not shown or not item or not left or not over then
    return false
  end
  local piece = M.part(left, part)
  hide(buffer)
  insert(piece, piece == left and over or 0)
  if piece == left then
    buffers[buffer].shown = nil
    if item.command then
      shown.client:exec_cmd(item.command, { bufnr = buffer })
    end
  elseif piece:find('\n', 1, true) then
    -- What is left begins on another line now.
    local row, col = unpack(vim.api.nvim_win_get_cursor(0))
    local remaining = vim.deepcopy(item)
    remaining.insertText = left:sub(#piece + 1)
    buffers[buffer].shown = { items = { remaining }, index = 1, row = row - 1, col = col, client = shown.client }
  end
  draw(buffer)
  return true
end

--- Show another suggestion; asks for several where only one is known.
---@param step integer
---@return boolean whether there is one
function M.cycle(step)
  if native then
    native.select({ count = step })
    return true
  end
  local buffer = vim.api.nvim_get_current_buf()
  local state = buffers[buffer]
  if not state or not state.shown then
    return false
  end
  local shown = state.shown
  if #shown.items > 1 then
    shown.index = (shown.index - 1 + step) % #shown.items + 1
    draw(buffer)
  else
    request(shown.client, buffer, 1)
  end
  return true
end

--- Hide the suggestion.
---@return boolean whether there was one
function M.dismiss()
  local buffer = vim.api.nvim_get_current_buf()
  if native then
    return native.get({
      on_accept = function()
        return nil
      end,
    })
  end
  local state = buffers[buffer]
  local had = state ~= nil and state.shown ~= nil
  if state then
    if state.timer then
      state.timer:stop()
      state.timer:close()
      state.timer = nil
    end
    state.shown = nil
  end
  hide(buffer)
  return had
end

return M
