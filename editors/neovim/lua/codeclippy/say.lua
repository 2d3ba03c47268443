--- What the user is told. On the command line a sentence that is too long for it, or a second one, asks for Enter and
--- takes the key that was meant for the text: here each is shortened to the room there is, and `:messages` has the whole.
local M = {}

local HIGHLIGHTS = { [vim.log.levels.WARN] = 'WarningMsg', [vim.log.levels.ERROR] = 'ErrorMsg' }
local ANNOUNCED = 100 -- milliseconds in which Neovim has announced what it is about to

---@class codeclippy.Said
---@field text string
---@field level integer

---@type codeclippy.Said[]
local waiting = {}

--- Whether a notifier of the user's, or a user interface that draws messages itself, shows them: there is room, then.
---@return boolean
local function elsewhere()
  -- Neovim's own is from the same file as its neighbours.
  local own = debug.getinfo(vim.notify, 'S').source == debug.getinfo(vim.schedule_wrap, 'S').source
  return not own or vim.iter(vim.api.nvim_list_uis()):any(function(ui)
    return ui.ext_messages
  end)
end

--- Whether the command line is in use: a command is typed there, or it shows the mode, which takes a message's place.
---@return boolean
local function covered()
  local mode = vim.api.nvim_get_mode().mode
  return vim.startswith(mode, 'c') or not vim.startswith(mode, 'n') and vim.o.showmode and vim.o.cmdheight == 1
end

---@param text string
---@param room integer cells
---@return string
local function shortened(text, room)
  local line = vim.trim((text:gsub('%s+', ' ')))
  local cut, length = line, vim.fn.strchars(line)
  while length > 0 and vim.fn.strdisplaywidth(cut) > room do
    length = length - 1
    cut = vim.fn.strcharpart(line, 0, length) .. '…'
  end
  return cut
end

--- Begin to let messages scroll by without a question; what is returned ends it.
---@return fun()
local function unasked()
  local options, more = vim.o.messagesopt, vim.o.more
  local quiet, changed = options:gsub('hit%-enter', 'wait:0')
  if changed == 0 then
    return function() end
  end
  vim.o.messagesopt, vim.o.more = quiet, false
  return function()
    vim.o.messagesopt, vim.o.more = options, more
  end
end

---@param said codeclippy.Said
local function draw(said)
  local highlight = HIGHLIGHTS[said.level]
  local shown = shortened(said.text, vim.v.echospace)
  vim.cmd.redraw() -- else a message that stands there is pushed up by this one
  if shown ~= said.text then
    local ask_again = unasked()
    vim.api.nvim_echo({ { said.text, highlight } }, true, {})
    ask_again()
    vim.cmd.redraw()
  end
  vim.api.nvim_echo({ { shown, highlight } }, shown == said.text, {})
end

local function flush()
  while waiting[1] and not covered() do
    draw(table.remove(waiting, 1))
  end
end

--- Tell the user something; while the command line is in use, as soon as it is not any more.
---@param text string
---@param level? integer
function M.say(text, level)
  level = level or vim.log.levels.INFO
  if elsewhere() then
    return vim.notify(text, level)
  end
  table.insert(waiting, { text = text, level = level })
  flush()
end

--- Say something in the place of what Neovim is about to announce in a longer line; not to a notifier, which shows that.
---@param text string
---@param level integer
function M.instead(text, level)
  if elsewhere() then
    return
  end
  local ask_again = unasked()
  vim.defer_fn(function()
    ask_again()
    M.say(text, level)
  end, ANNOUNCED)
end

vim.api.nvim_create_autocmd('ModeChanged', {
  group = vim.api.nvim_create_augroup('codeclippy.say', { clear = true }),
  callback = vim.schedule_wrap(flush),
})

return M
