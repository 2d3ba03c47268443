-- Declares the commands only: modules are loaded when they are used.
if vim.g.loaded_codeclippy then
  return
end
vim.g.loaded_codeclippy = true

vim.api.nvim_create_user_command('CodeClippyEdit', function(args)
  local lines = args.range > 0 and { args.line1, args.line2 } or nil
  require('codeclippy').edit(args.args, lines)
end, { nargs = '*', range = true, desc = 'Edit these lines, or the function around the cursor, by message' })

vim.api.nvim_create_user_command('CodeClippy', function(args)
  require('codeclippy').command(args.args)
end, {
  nargs = 1,
  desc = 'Code Clippy: cancel, metrics, pause, reload, resume, status',
  complete = function(prefix)
    return vim.tbl_filter(function(name)
      return vim.startswith(name, prefix)
    end, require('codeclippy').commands)
  end,
})
