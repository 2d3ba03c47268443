--- `:checkhealth codeclippy`
local M = {}

--- Return the server's program if it is missing.
---@return string?
function M.find_missing()
  local cmd = (vim.lsp.config.codeclippy or {}).cmd
  local program = type(cmd) == 'table' and cmd[1] or nil
  return program and vim.fn.executable(program) == 0 and program or nil
end

--- Say that the server's program is missing, once.
function M.tell_missing()
  local program = M.find_missing()
  if not program then
    return
  end
  pcall(vim.api.nvim_del_augroup_by_name, 'codeclippy.missing')
  local text = ('Code Clippy: %s is not installed; see :help codeclippy-install'):format(vim.fs.basename(program))
  require('codeclippy.message').show(text, vim.log.levels.WARN)
end

function M.check()
  local health = vim.health
  health.start('Code Clippy')
  if vim.fn.has('nvim-0.11') == 0 then
    health.error('Neovim 0.11 or later is needed')
    return
  end
  health.ok('Neovim ' .. tostring(vim.version()) .. (vim.lsp.inline_completion and ', own inline completion' or ''))
  local config = vim.lsp.config.codeclippy or {}
  local program = type(config.cmd) == 'table' and config.cmd[1] or nil
  if not program then
    health.error('there is no configuration', 'add editors/neovim to the runtimepath')
  elseif vim.fn.executable(program) == 1 then
    local result = vim.system({ program, '--version' }, { text = true }):wait(10000)
    local version = vim.trim(result.stdout or '')
    health.ok(version ~= '' and version or program)
  else
    health.error(program .. ' is not on the PATH', {
      'install it: see :help codeclippy-install',
      "or set its path: vim.lsp.config('codeclippy', { cmd = { '/path/to/codeclippy-ls' } })",
    })
  end
  if vim.lsp.is_enabled and not vim.lsp.is_enabled('codeclippy') then
    health.warn('it is not enabled', "call vim.lsp.enable('codeclippy')")
  end
  local clients = vim.lsp.get_clients({ name = 'codeclippy' })
  if #clients == 0 then
    health.info('no server is running; it starts with the first file')
  else
    health.info(('%d server for %d buffers, %s'):format(
      #clients,
      vim.tbl_count(clients[1].attached_buffers),
      require('codeclippy.status').describe()
    ))
  end
end

return M
