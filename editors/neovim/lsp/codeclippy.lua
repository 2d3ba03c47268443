-- Configuration for `vim.lsp.enable('codeclippy')`, Neovim 0.11 and later. Change it with `vim.lsp.config`:
--   vim.lsp.config('codeclippy', { init_options = { completion = { maxTokens = 64 } } })
---@type vim.lsp.Config
return {
  cmd = { 'codeclippy-ls' },
  cmd_cwd = vim.uv.os_homedir(), -- not in the project's folder, which may be somebody else's
  root_markers = { '.git', 'pyproject.toml', 'package.json' },
  -- One server for all projects, and so one model in memory.
  reuse_client = function(client, config)
    return client.name == config.name
  end,
  -- The preview handles edits that need confirmation, which 0.11 does not announce.
  capabilities = { workspace = { workspaceEdit = { changeAnnotationSupport = { groupsOnLabel = false } } } },
  init_options = { statusNotification = true, modelOffers = true },
  handlers = {
    ['codeclippy/status'] = function(_, params, context)
      require('codeclippy.status').set(params, context)
    end,
    ['codeclippy/suggestionReady'] = function()
      require('codeclippy.status').request_again()
    end,
    ['codeclippy/modelOffer'] = function(_, params)
      require('codeclippy.model').show_offer(params)
    end,
    ['window/showMessage'] = function(_, params)
      local level = ({ vim.log.levels.ERROR, vim.log.levels.WARN })[params.type] or vim.log.levels.INFO
      require('codeclippy.message').show(params.message, level)
      return vim.NIL
    end,
    ['window/showDocument'] = function(_, params)
      return require('codeclippy.diff').show(params)
    end,
    ['window/showMessageRequest'] = function(...)
      return require('codeclippy.diff').ask(...)
    end,
    ['workspace/applyEdit'] = function(_, params, context)
      return require('codeclippy.preview').apply(params, context)
    end,
  },
  on_exit = function(code, signal)
    require('codeclippy.status').on_exit(code, signal)
  end,
  on_attach = function(client, buffer)
    require('codeclippy').attach(client, buffer)
  end,
}
