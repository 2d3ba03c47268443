--- Ghost text: Neovim's own inline completion (0.12), or extmarks (0.11). An answer is dropped if the cursor has moved
--- or the text has changed since its request; one request at a time is in flight.
local M = {}

local native = vim.lsp.inline_completion
local namespace = vim.api.nvim_create_namespace('codeclippy.ghost')
local METHOD = 'textDocument/inlineCompletion'
local DEBOUNCE = 120 -- milliseconds after the last key

---@class codeclippy.Suggestion
---@field items lsp.InlineCompletionItem[]
---@field index integer
---@field row integer 0-based
---@field col integer bytes, 0-based: start of the items' text
---@field client vim.lsp.Client

---@class codeclippy.Buffer
---@field suggestion? codeclippy.Suggestion
---@field request_id? integer
---@field timer? uv.uv_timer_t

---@type table<integer, codeclippy.Buffer>
local buffers = {}
---@type table<integer, true> ids of the clients whose answers are converted
local converted = {}

--- Return the part of a suggestion that is accepted.
---@param text string
---@param part 'all'|'word'|'line'
---@return string
function M.first_part(text, part)
  if part == 'word' then
    return text:match('^%s*[%w_\128-\255]+') or text:match('^%s*[^%w_%s\128-\255]+') or text
  end
  return part == 'line' and text:match('^\n?[^\n]*') or text
end

--- Insert text at the cursor as one undo step, and move the cursor behind it.
---@param text string
---@param replaced? integer number of bytes after the cursor that it replaces
local function insert(text, replaced)
  vim.o.undolevels = vim.o.undolevels -- starts a new undo step
  local row, col = unpack(vim.api.nvim_win_get_cursor(0))
  local lines = vim.split(text, '\n', { plain = true })
  vim.api.nvim_buf_set_text(0, row - 1, col, row - 1, col + (replaced or 0), lines)
  local last = #lines[#lines]
  vim.api.nvim_win_set_cursor(0, { row + #lines - 1, #lines == 1 and col + last or last })
end

--- Return the rest of a suggestion if the text from its start (`row`, `col`) to the cursor is its beginning.
---@param text string
---@param row integer
---@param col integer
---@return string?
local function find_rest(text, row, col)
  local cursor = vim.api.nvim_win_get_cursor(0)
  if cursor[1] - 1 ~= row or cursor[2] < col then
    return nil
  end
  local typed = vim.api.nvim_get_current_line():sub(col + 1, cursor[2])
  return vim.startswith(text, typed) and #typed < #text and text:sub(#typed + 1) or nil
end

--- Check that the bytes after the cursor that a suggestion replaces are closing brackets and the like.
---@param bytes integer the number of bytes that the server says
---@return integer? bytes nil if there is other text now
local function check_replaced(bytes)
  local col = vim.api.nvim_win_get_cursor(0)[2]
  local after = vim.api.nvim_get_current_line():sub(col + 1, col + bytes)
  return #after == bytes and not after:find('[^%s%)%]}"\'`:;,{]') and bytes or nil
end

--- Return the number of bytes that an item replaces. They are ASCII, so columns of any encoding are bytes.
---@param item lsp.InlineCompletionItem
---@return integer
local function get_replaced(item)
  return item.range and item.range['end'].character - item.range.start.character or 0
end

---@param item lsp.InlineCompletionItem
---@return string
local function get_text(item)
  local text = item.insertText
  return type(text) == 'string' and text or text.value
end

--- Give the items of all answers line feeds as line ends, since Neovim's buffers hold lines; the server writes a
--- document's own. The answers pass here before 0.12 or we see them.
---@param client vim.lsp.Client
local function convert_line_ends(client)
  local send = client.request
  ---@diagnostic disable-next-line: duplicate-set-field
  client.request = function(self, method, params, handler, ...)
    if method ~= METHOD or not handler then
      return send(self, method, params, handler, ...)
    end
    return send(self, method, params, function(err, result, ...)
      for _, item in ipairs(type(result) == 'table' and (result.items or result) or {}) do
        if type(item.insertText) == 'string' then
          item.insertText = item.insertText:gsub('\r\n?', '\n')
        end
      end
      return handler(err, result, ...)
    end, ...)
  end
end

---@param buffer integer
local function hide(buffer)
  if vim.api.nvim_buf_is_valid(buffer) then
    vim.api.nvim_buf_clear_namespace(buffer, namespace, 0, -1)
  end
end

--- Draw the rest of the suggestion, or drop it if the text no longer matches.
---@param buffer integer
local function draw(buffer)
  hide(buffer)
  local suggestion = buffers[buffer] and buffers[buffer].suggestion
  if not suggestion then
    return
  end
  local item = suggestion.items[suggestion.index]
  local rest = find_rest(get_text(item), suggestion.row, suggestion.col)
  local replaced = check_replaced(get_replaced(item))
  if not rest or not replaced then
    buffers[buffer].suggestion = nil
    return
  end
  local lines = vim.split(rest, '\n', { plain = true })
  local below = vim.tbl_map(function(line)
    return { { line, 'Comment' } }
  end, { unpack(lines, 2) })
  local row, col = unpack(vim.api.nvim_win_get_cursor(0))
  vim.api.nvim_buf_set_extmark(buffer, namespace, row - 1, col, {
    virt_text = { { lines[1], 'Comment' } },
    virt_text_pos = replaced > 0 and 'overlay' or 'inline', -- over the brackets that it replaces
    virt_lines = #below > 0 and below or nil,
    hl_mode = 'combine',
  })
end

---@param client vim.lsp.Client
---@param buffer integer
---@param kind integer 1: invoked, 2: automatic (LSP's InlineCompletionTriggerKind)
local function request(client, buffer, kind)
  local state = buffers[buffer]
  if not state or vim.api.nvim_get_current_buf() ~= buffer or client:is_stopped() then
    return
  end
  if state.request_id then
    client:cancel_request(state.request_id)
  end
  local cursor, tick = vim.api.nvim_win_get_cursor(0), vim.api.nvim_buf_get_changedtick(buffer)
  local params = vim.lsp.util.make_position_params(0, client.offset_encoding)
  ---@diagnostic disable-next-line: inject-field
  params.context = { triggerKind = kind }
  local _, id = client:request(METHOD, params, function(err, result, context)
    state.request_id = state.request_id ~= context.request_id and state.request_id or nil
    local items = not err and result and (result.items or result) or nil
    local is_current = vim.api.nvim_buf_is_valid(buffer)
      and vim.api.nvim_get_current_buf() == buffer
      and vim.api.nvim_buf_get_changedtick(buffer) == tick
      and vim.deep_equal(cursor, vim.api.nvim_win_get_cursor(0))
      and vim.api.nvim_get_mode().mode:sub(1, 1) == 'i'
    if not items or not is_current then
      return
    end
    state.suggestion = items[1]
        and { items = items, index = 1, row = cursor[1] - 1, col = cursor[2], client = client }
      or nil
    draw(buffer)
  end, buffer)
  state.request_id = id
end

---@param client vim.lsp.Client
---@param buffer integer
local function on_cursor_moved(client, buffer)
  local state = buffers[buffer]
  if not state then
    return
  end
  draw(buffer) -- the user may have typed the start of the suggestion
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
local function enable_extmarks(client, buffer)
  local group = vim.api.nvim_create_augroup('codeclippy.ghost.' .. buffer, { clear = true })
  buffers[buffer] = {}
  vim.api.nvim_create_autocmd({ 'InsertEnter', 'CursorMovedI', 'TextChangedP' }, {
    group = group,
    buffer = buffer,
    callback = function()
      on_cursor_moved(client, buffer)
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

--- Drop a suggestion that the text no longer matches: 0.12 would draw its end behind the typed text until an answer
--- comes.
---@param buffer integer
local function drop_stale_native(buffer)
  local ok, capability = pcall(require, 'vim.lsp._capability') -- no public API returns the current suggestion
  local completor = ok and vim.tbl_get(capability, 'all', 'inline_completion', 'active', buffer)
  local item = completor and completor.current
  if item and item.range and type(item.insert_text) == 'string' then
    local row, col = item.range:to_extmark()
    if not find_rest(item.insert_text, row, col) then
      completor.current = nil
      completor:hide()
    end
  end
end

--- Request suggestions because the user asked for them.
---@param client vim.lsp.Client
---@return boolean is_requested
function M.request_by_key(client)
  local buffer = vim.api.nvim_get_current_buf()
  if not native then
    request(client, buffer, 1)
    return buffers[buffer] ~= nil
  end
  local ok, capability = pcall(require, 'vim.lsp._capability') -- 0.12 has no public API for it
  local completor = ok and vim.tbl_get(capability, 'all', 'inline_completion', 'active', buffer)
  if completor then
    completor:request(vim.lsp.protocol.InlineCompletionTriggerKind.Invoked)
  end
  return completor ~= nil and completor ~= false
end

--- Turn suggestions in a buffer on or off.
---@param client vim.lsp.Client
---@param buffer integer
---@param is_enabled boolean
function M.enable(client, buffer, is_enabled)
  if not converted[client.id] then
    converted[client.id] = true
    convert_line_ends(client)
  end
  if native then
    native.enable(is_enabled, { bufnr = buffer })
    local group = vim.api.nvim_create_augroup('codeclippy.ghost.' .. buffer, { clear = true })
    if is_enabled then
      vim.api.nvim_create_autocmd({ 'CursorMovedI', 'TextChangedP' }, {
        group = group,
        buffer = buffer,
        callback = function()
          drop_stale_native(buffer)
        end,
      })
    end
  elseif is_enabled then
    enable_extmarks(client, buffer)
  else
    hide(buffer)
    buffers[buffer] = nil
    pcall(vim.api.nvim_del_augroup_by_name, 'codeclippy.ghost.' .. buffer)
  end
end

---@param part 'all'|'word'|'line'
---@param on_stale? fun()
---@return boolean
local function accept_native(part, on_stale)
  return native.get({
    on_accept = function(item)
      local text = item.insert_text
      if item.client_id ~= (require('codeclippy').client() or {}).id or type(text) ~= 'string' or not item.range then
        return item
      end
      -- 0.12 would insert all of it, also the beginning that has been typed since.
      local row, col, end_row, end_col = item.range:to_extmark()
      local replaced = row == end_row and check_replaced(end_col - col) or nil
      local rest = replaced and find_rest(text, row, col)
      if not rest then
        return on_stale and on_stale() -- the text no longer matches, which 0.12 has not noticed yet
      end
      local accepted = M.first_part(rest, part)
      insert(accepted, accepted == rest and replaced or 0)
      if part == 'all' and item.command then
        vim.lsp.get_client_by_id(item.client_id):exec_cmd(item.command)
      end
      return nil
    end,
  })
end

--- Accept the suggestion, or a part of it.
---@param part 'all'|'word'|'line'
---@param on_stale? fun() called if Neovim notices later that there was none
---@return boolean is_accepted false if there is no suggestion
function M.accept(part, on_stale)
  if native then
    return accept_native(part, on_stale)
  end
  local buffer = vim.api.nvim_get_current_buf()
  local suggestion = buffers[buffer] and buffers[buffer].suggestion
  local item = suggestion and suggestion.items[suggestion.index]
  local rest = suggestion and item and find_rest(get_text(item), suggestion.row, suggestion.col)
  local replaced = item and check_replaced(get_replaced(item))
  if not suggestion or not item or not rest or not replaced then
    return false
  end
  local accepted = M.first_part(rest, part)
  hide(buffer)
  insert(accepted, accepted == rest and replaced or 0)
  if accepted == rest then
    buffers[buffer].suggestion = nil
    if item.command then
      suggestion.client:exec_cmd(item.command, { bufnr = buffer })
    end
  elseif accepted:find('\n', 1, true) then
    -- The rest starts on another line now.
    local row, col = unpack(vim.api.nvim_win_get_cursor(0))
    local remaining = vim.deepcopy(item)
    remaining.insertText = rest:sub(#accepted + 1)
    buffers[buffer].suggestion =
      { items = { remaining }, index = 1, row = row - 1, col = col, client = suggestion.client }
  end
  draw(buffer)
  return true
end

--- Show another suggestion; request several if there is only one.
---@param step integer
---@return boolean has_suggestion
function M.cycle(step)
  if native then
    native.select({ count = step })
    return true
  end
  local buffer = vim.api.nvim_get_current_buf()
  local state = buffers[buffer]
  if not state or not state.suggestion then
    return false
  end
  local suggestion = state.suggestion
  if #suggestion.items > 1 then
    suggestion.index = (suggestion.index - 1 + step) % #suggestion.items + 1
    draw(buffer)
  else
    request(suggestion.client, buffer, 1)
  end
  return true
end

--- Hide the suggestion.
---@return boolean had_suggestion
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
  local had_suggestion = state ~= nil and state.suggestion ~= nil
  if state then
    if state.timer then
      state.timer:stop()
      state.timer:close()
      state.timer = nil
    end
    state.suggestion = nil
  end
  hide(buffer)
  return had_suggestion
end

return M
