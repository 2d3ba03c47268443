;;; init.el --- Configuration of Emacs in tests  -*- lexical-binding: t -*-

;;; Commentary:

;; Emacs is started with -q, so that Debian's packages are found.  TEST_CLIENT is the folder of codeclippy.el,
;; TEST_COMMAND the command of the server as JSON, and TEST_SOCKET the socket on which tests evaluate forms.

;;; Code:

;; In an empty home directory, Emacs compiles packages and shows warnings in a window.  What is loaded before this file is
;; compiled all the same, so its warnings must not be shown, either.
(setq native-comp-deferred-compilation nil
      native-comp-jit-compilation nil
      native-comp-async-report-warnings-errors nil
      inhibit-startup-screen t
      initial-scratch-message nil
      make-backup-files nil
      auto-save-default nil
      create-lockfiles nil
      ring-bell-function #'ignore
      use-short-answers t
      eglot-sync-connect 60
      eglot-connect-timeout 180
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
  "Evaluate the form that PROCESS has sent, once TEXT ends with a newline; answer in JSON."
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
