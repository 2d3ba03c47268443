-- :[range]CodeClippyEdit {message} has the lines edited by message; without a range the function around the cursor.
vim.api.nvim_create_user_command('CodeClippyEdit', function(given)
  local buffer = vim.api.nvim_get_current_buf()
  local client = vim.lsp.get_clients({ bufnr = buffer, name = 'codeclippy' })[1]
  if not client then
    vim.notify('Code Clippy does not run for this buffer', vim.log.levels.WARN)
    return
  end
  local first = (given.range > 0 and given.line1 or vim.fn.line('.')) - 1
  local last = given.range > 0 and given.line2 or first
  client:exec_cmd({
    title = 'Code Clippy: ' .. given.args,
    command = 'codeclippy.edit',
    arguments = {
      {
        uri = vim.uri_from_bufnr(buffer),
        message = given.args,
        range = { start = { line = first, character = 0 }, ['end'] = { line = last, character = 0 } },
      },
    },
  }, { bufnr = buffer })
end, { nargs = 1, range = true, desc = 'Edit these lines by message' })

-- Ghost text where this Neovim has it (0.12); Tab takes it.
vim.api.nvim_create_autocmd('LspAttach', {
  callback = function(event)
    local client = vim.lsp.get_client_by_id(event.data.client_id)
    if client and client.name == 'codeclippy' and vim.lsp.inline_completion then
      vim.lsp.inline_completion.enable(true, { bufnr = event.buf })
    end
  end,
})
