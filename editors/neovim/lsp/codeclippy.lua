-- Configuration for `vim.lsp.enable('codeclippy')`, Neovim 0.11 and later.
---@type vim.lsp.Config
return {
  cmd = { 'codeclippy-ls' },
  root_markers = { '.git', 'pyproject.toml', 'package.json' },
}
