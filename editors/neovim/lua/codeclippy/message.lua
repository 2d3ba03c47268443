--- Messages to the user. On Neovim's command line a message that is too long, or a second one, asks for Enter and takes
--- the next key. Here each message is shortened to the width of the command line, and `:messages` has all of it.
local M = {}

local HIGHLIGHTS = { [vim.log.levels.WARN] = 'WarningMsg', [vim.log.levels.ERROR] = 'ErrorMsg' }
local NEOVIM_MESSAGE_DELAY = 100 -- milliseconds after which Neovim has shown a message of its own

---@class codeclippy.Message
---@field text string
---@field level integer

---@type codeclippy.Message[]
local queue = {}

--- The user has a notifier, or a user interface that draws messages: both have room for all of it.
---@return boolean
local function has_notifier()
  -- Neovim's own notifier is defined in the same file as `schedule_wrap`.
  local is_default = debug.getinfo(vim.notify, 'S').source == debug.getinfo(vim.schedule_wrap, 'S').source
  return not is_default or vim.iter(vim.api.nvim_list_uis()):any(function(ui)
    return ui.ext_messages
  end)
end

--- The user types a command on the command line, or it shows the mode, which a message would replace.
---@return boolean
local function is_command_line_busy()
  local mode = vim.api.nvim_get_mode().mode
  return vim.startswith(mode, 'c') or not vim.startswith(mode, 'n') and vim.o.showmode and vim.o.cmdheight == 1
end

---@param text string
---@param width integer in cells
---@return string
local function shorten(text, width)
  local line = vim.trim((text:gsub('%s+', ' ')))
  local short, length = line, vim.fn.strchars(line)
  while length > 0 and vim.fn.strdisplaywidth(short) > width do
    length = length - 1
    short = vim.fn.strcharpart(line, 0, length) .. '…'
  end
  return short
end

--- Let messages scroll without asking for Enter, until the returned function is called.
---@return fun()
local function disable_hit_enter()
  local options, more = vim.o.messagesopt, vim.o.more
  local without, count = options:gsub('hit%-enter', 'wait:0')
  if count == 0 then
    return function() end
  end
  vim.o.messagesopt, vim.o.more = without, false
  return function()
    vim.o.messagesopt, vim.o.more = options, more
  end
end

---@param message codeclippy.Message
local function draw(message)
  local highlight = HIGHLIGHTS[message.level]
  local short = shorten(message.text, vim.v.echospace)
  vim.cmd.redraw() -- else this message would push up the one that is shown
  if short ~= message.text then
    local restore = disable_hit_enter()
    vim.api.nvim_echo({ { message.text, highlight } }, true, {})
    restore()
    vim.cmd.redraw()
  end
  vim.api.nvim_echo({ { short, highlight } }, short == message.text, {})
end

local function flush()
  while queue[1] and not is_command_line_busy() do
    draw(table.remove(queue, 1))
  end
end

--- Show a message to the user, as soon as the command line is free.
---@param text string
---@param level? integer
function M.show(text, level)
  level = level or vim.log.levels.INFO
  if has_notifier() then
    return vim.notify(text, level)
  end
  table.insert(queue, { text = text, level = level })
  flush()
end

--- Show a message instead of a longer one that Neovim is about to show. With a notifier, Neovim's message is enough.
---@param text string
---@param level integer
function M.replace_next(text, level)
  if has_notifier() then
    return
  end
  local restore = disable_hit_enter()
  vim.defer_fn(function()
    restore()
    M.show(text, level)
  end, NEOVIM_MESSAGE_DELAY)
end

vim.api.nvim_create_autocmd('ModeChanged', {
  group = vim.api.nvim_create_augroup('codeclippy.message', { clear = true }),
  callback = vim.schedule_wrap(flush),
})

return M
