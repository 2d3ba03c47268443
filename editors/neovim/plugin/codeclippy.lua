-- Declares the commands only: modules are loaded when they are used.
if vim.g.loaded_codeclippy then
  return
end
vim.g.loaded_codeclippy = true

-- Neovim starts no server whose program is missing, and says so in its log only.
vim.api.nvim_create_autocmd('FileType', {
  group = vim.api.nvim_create_augroup('codeclippy.missing', { clear = true }),
  callback = function(event)
    if vim.bo[event.buf].buftype == '' and (vim.lsp._enabled_configs or {}).codeclippy then
      vim.schedule(require('codeclippy.health').tell_missing)
    end
  end,
})

vim.api.nvim_create_user_command('CodeClippyEdit', function(args)
  local lines = args.range > 0 and { args.line1, args.line2 } or nil
  require('codeclippy').edit(args.args, lines)
end, { nargs = '*', range = true, desc = 'Edit these lines, or the function around the cursor, by message' })

vim.api.nvim_create_user_command('CodeClippy', function(args)
  require('codeclippy').command(args.args)
end, {
  nargs = '?',
  desc = 'Code Clippy: what it can do; or cancel, context, metrics, model, pause, reload, resume, status',
  complete = function(prefix)
    return vim.tbl_filter(function(name)
      return vim.startswith(name, prefix)
    end, require('codeclippy').commands)
  end,
})
