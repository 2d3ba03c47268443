-- Declares commands, nothing else: everything is loaded when it is used.
if vim.g.loaded_codeclippy then
  return
end
vim.g.loaded_codeclippy = true

vim.api.nvim_create_user_command('CodeClippyEdit', function(given)
  local lines = given.range > 0 and { given.line1, given.line2 } or nil
  require('codeclippy').edit(given.args, lines)
end, { nargs = '*', range = true, desc = 'Edit the function around the cursor, or these lines, by message' })

vim.api.nvim_create_user_command('CodeClippy', function(given)
  require('codeclippy').command(given.args)
end, {
  nargs = 1,
  desc = 'Code Clippy: pause, resume, cancel, figures, reload, status',
  complete = function(beginning)
    return vim.tbl_filter(function(name)
      return vim.startswith(name, beginning)
    end, require('codeclippy').commands)
  end,
})
