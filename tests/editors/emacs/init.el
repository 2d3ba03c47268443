;;; init.el --- What a test's Emacs starts with  -*- lexical-binding: t -*-

;;; Commentary:

;; Started with -q, so that Debian's packages are found.  TEST_CLIENT is the folder of codeclippy.el, TEST_COMMAND the
;; server's command and TEST_OTHER that of the other language's server, as JSON; TEST_SOCKET where a test evaluates.

;;; Code:

(setq native-comp-deferred-compilation nil  ; a fresh home would have Emacs compile, and warn in a window
      native-comp-jit-compilation nil
      inhibit-startup-screen t
      initial-scratch-message nil
      make-backup-files nil
      auto-save-default nil
      create-lockfiles nil
      ring-bell-function #'ignore
      use-short-answers t
      eglot-sync-connect 60
      eglot-connect-timeout 60
      eldoc-idle-delay 3600
      confirm-kill-processes nil
      frame-background-mode 'dark)  ; as the screenshots are
(set-language-environment "UTF-8")
(prefer-coding-system 'utf-8-unix)
(menu-bar-mode -1)
(frame-set-background-mode (selected-frame))
(require 'package)
(package-initialize)
(add-to-list 'load-path (getenv "TEST_CLIENT"))
(require 'json)
(require 'codeclippy)
(setq codeclippy-command (append (json-parse-string (getenv "TEST_COMMAND")) nil))

(defun test-evaluate (process text)
  "Evaluate what PROCESS has sent once it ends with a newline, TEXT being its latest part; answer in JSON."
  (let ((text (concat (process-get process 'text) text)))
    (process-put process 'text text)
    (when (string-suffix-p "\n" text)
      (process-send-string
       process
       (concat (json-encode
                (condition-case error
                    (list :value (with-current-buffer (window-buffer (selected-window)) (eval (read text) t)))
                  (error (list :error (error-message-string error)))))
               "\n")))))

(make-network-process :name "test" :server t :family 'local :service (getenv "TEST_SOCKET") :coding 'utf-8-unix
                      :noquery t :filter #'test-evaluate)

(provide 'init)
;;; init.el ends here
