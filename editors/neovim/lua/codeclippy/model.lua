--- Choosing the model from the server's list. The server writes the choice to the user's own file, and loads it.
local M = {}

---@class codeclippy.Model
---@field name string
---@field description string jobs, parameters, size, speed here, licence
---@field jobs string[]
---@field program string whose it is; empty if it must be downloaded
---@field installed boolean
---@field problem string why it cannot be used

---@type codeclippy.Model
local SHIPPED = {
  name = '',
  description = 'complete, infill, edit; small, offline, knows Python',
  jobs = {},
  program = '',
  installed = true,
  problem = '',
}

---@param model codeclippy.Model
---@return string
local function format(model)
  local name = model.name == '' and 'the shipped model' or vim.fn.fnamemodify(model.name, ':~')
  local action = model.installed and '' or 'download '
  return ('%s%s: %s'):format(action, name, model.description)
end

---@param client vim.lsp.Client
---@param buffer integer
---@param model codeclippy.Model
---@param role string
local function use(client, buffer, model, role)
  local command = model.installed and 'codeclippy.useModel' or 'codeclippy.getModel'
  client:exec_cmd(
    { title = 'use a model', command = command, arguments = { { name = model.name, role = role } } },
    { bufnr = buffer }
  )
end

--- Ask what the model is for, if it can do more than one thing.
---@param model codeclippy.Model
---@param on_role fun(role: string)
local function ask_role(model, on_role)
  if not vim.list_contains(model.jobs, 'edit') then
    return on_role('complete')
  end
  local roles = { { 'complete', 'suggestions and edits' }, { 'edit', 'edits only' } }
  vim.ui.select(roles, {
    prompt = 'Use it for',
    format_item = function(role)
      return role[2]
    end,
  }, function(role)
    if role then
      on_role(role[1])
    end
  end)
end

--- Show the list, and use what is chosen.
---@param client vim.lsp.Client
---@param buffer integer
function M.choose(client, buffer)
  client:exec_cmd({ title = 'list models', command = 'codeclippy.listModels', arguments = {} }, {
    bufnr = buffer,
  }, function(failure, list)
    if failure or not list then
      return require('codeclippy.message').show('Code Clippy: the server did not list its models')
    end
    local models = vim.tbl_filter(function(model)
      return model.problem == ''
    end, list.models)
    table.insert(models, SHIPPED)
    vim.ui.select(models, { prompt = 'The model of all your editors', format_item = format }, function(model)
      if model then
        ask_role(model, function(role)
          use(client, buffer, model, role)
        end)
      end
    end)
  end)
end

--- Handler of `codeclippy/modelOffer`, which the server sends once.
---@param params { message: string }
function M.show_offer(params)
  require('codeclippy.message').show(('Code Clippy: %s. To use it: :CodeClippy model'):format(params.message))
end

return M
