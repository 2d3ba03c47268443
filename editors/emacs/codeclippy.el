;;; codeclippy.el --- Code completion and edits by message  -*- lexical-binding: t -*-

;; SPDX-License-Identifier: Apache-2.0
;; Package-Requires: ((emacs "28.1") (eglot "1.9"))

;;; Commentary:

;; After loading this file, M-x eglot in a programming mode starts codeclippy-ls.  Completion at point and code
;; actions then work as with any server, and M-x codeclippy-edit has the region, or the function around point,
;; edited by message.

;;; Code:

(require 'eglot)

(defgroup codeclippy nil
  "Code completion and edits by message from open models."
  :group 'tools)

(defcustom codeclippy-command '("codeclippy-ls")
  "The server's program and arguments."
  :type '(repeat string))

(add-to-list 'eglot-server-programs (cons 'prog-mode codeclippy-command) t)

(defvar codeclippy-history nil
  "Messages given to `codeclippy-edit'.")

(defun codeclippy-edit (message)
  "Have the region, or the function around point, edited by MESSAGE."
  (interactive (list (read-string "Edit: " nil 'codeclippy-history)))
  (let* ((start (if (use-region-p) (region-beginning) (point)))
         (end (if (use-region-p) (region-end) (point)))
         (range (list :start (eglot--pos-to-lsp-position start) :end (eglot--pos-to-lsp-position end)))
         (uri (plist-get (eglot--TextDocumentIdentifier) :uri))
         (server (eglot--current-server-or-lose)))
    ;; eglot does not do this before a command, and the server must see the text that the user sees.
    (eglot--signal-textDocument/didChange)
    (jsonrpc-async-request server :workspace/executeCommand
                           (list :command "codeclippy.edit"
                                 :arguments (vector (list :uri uri :message message :range range))))))

(provide 'codeclippy)
;;; codeclippy.el ends here
