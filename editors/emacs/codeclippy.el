;;; codeclippy.el --- Code completion and edits by message from open models  -*- lexical-binding: t -*-

;; Copyright 2021-2026 The Code Clippy authors

;; Author: The Code Clippy authors
;; Maintainer: The Code Clippy authors
;; Version: 0.1.0
;; Package-Requires: ((emacs "28.1") (eglot "1.9"))
;; Keywords: convenience, languages, tools
;; SPDX-License-Identifier: Apache-2.0

;;; Commentary:

;; A client of codeclippy-ls, a language server that completes, infills and edits code with open models on your own
;; machine.  There are two ways to use it; all knowledge of models stays in the server.
;;
;; 1. Ghost text.  `codeclippy-mode' (in all programming modes: `global-codeclippy-mode') shows a suggestion at point
;;    while you type, beside whatever other language server the buffer has.  While a suggestion shows, and only then:
;;
;;      TAB                  accept all of it        M-n, M-p   next, previous suggestion
;;      M-f, M-<right>       accept a word           C-g        hide it
;;      C-M-f, C-M-<right>   accept a line
;;
;;    Typing what is shown keeps it.  One server serves all buffers and projects.
;;
;; 2. Eglot.  In a programming mode that no other server is registered for, plain \\[eglot] starts codeclippy-ls:
;;    completion at point and code actions.  To prefer it in a mode that has another server:
;;
;;      (add-to-list 'eglot-server-programs '(python-mode . codeclippy-eglot-contact))
;;
;; In both, M-x codeclippy-edit has the region, or the function around point, edited by a message ("rename x to count");
;; the edit is shown as a diff first, y applies it and n discards it.  M-x codeclippy-cancel stops one that is being
;; written.
;;
;;   (use-package codeclippy
;;     :bind ("C-c e" . codeclippy-edit)
;;     :init (global-codeclippy-mode))

;;; Code:

(require 'cl-lib)
(require 'diff-mode)
(require 'eglot)
(require 'jsonrpc)
(require 'subr-x)
(require 'url-util)

;;;; Options

(defgroup codeclippy nil
  "Code completion and edits by message from open models."
  :group 'tools
  :prefix "codeclippy-")

(defcustom codeclippy-command '("codeclippy-ls")
  "The server's program and its arguments."
  :type '(repeat string)
  :package-version '(codeclippy . "0.1.0"))

(defvar codeclippy--connection nil
  "The connection of `codeclippy-mode', live or dead; nil before the first.")

(defcustom codeclippy-settings nil
  "Settings of the server, a property list or an association list in its own names.
For instance (:completion (:maxTokens 64) :edit (:confirm nil)), where nil
is false and a list of strings is an array.  A change made with `setopt',
`customize-set-variable' or the customize interface is sent to the running
server; what says which model runs, and where, takes `codeclippy-restart'."
  :type 'sexp
  :initialize #'custom-initialize-default
  :set (lambda (symbol value)
         (set-default symbol value)
         (codeclippy--settings-changed))
  :package-version '(codeclippy . "0.1.0"))

(defcustom codeclippy-idle-delay 0.15
  "Seconds after the last key before a suggestion is asked for.
With nil only `codeclippy-complete' asks."
  :type '(choice (const :tag "Only when asked" nil) number)
  :package-version '(codeclippy . "0.1.0"))

(defcustom codeclippy-confirm-edits nil
  "Whether every edit is shown as a diff before it is applied.
With nil the server's setting edit.confirm decides, which is on by default."
  :type 'boolean
  :package-version '(codeclippy . "0.1.0"))

(defcustom codeclippy-presets '("Add a docstring" "Add type hints" "Fix the bug")
  "Messages offered by `codeclippy-edit' beside those given before."
  :type '(repeat string)
  :package-version '(codeclippy . "0.1.0"))

(defcustom codeclippy-modes '(prog-mode)
  "Major modes, with what derives from them, that `global-codeclippy-mode' serves."
  :type '(repeat symbol)
  :package-version '(codeclippy . "0.1.0"))

(defcustom codeclippy-max-restarts 3
  "How often a server that dies is started again within three minutes."
  :type 'natnum
  :package-version '(codeclippy . "0.1.0"))

(defcustom codeclippy-language-ids
  '(("c++" . "cpp") ("js" . "javascript") ("js-jsx" . "javascriptreact") ("sh" . "shellscript") ("bash" . "shellscript")
    ("tsx" . "typescriptreact") ("mhtml" . "html") ("cperl" . "perl") ("emacs-lisp" . "elisp"))
  "The protocol's names of languages, where a major mode's name is another one."
  :type '(alist :key-type string :value-type string)
  :package-version '(codeclippy . "0.1.0"))

(defface codeclippy-ghost
  '((t :inherit shadow))
  "Text that is suggested and not yet in the buffer."
  :package-version '(codeclippy . "0.1.0"))

;;;; What both kinds of connection share

(defclass codeclippy--peer ()
  ((tasks :initform nil :accessor codeclippy--tasks
          :documentation "Progress that can be cancelled: an alist of tokens and titles.")
   (diff :initform "" :accessor codeclippy--diff-shown
         :documentation "The diff that the server asks about next."))
  "A connection to codeclippy-ls, our own or eglot's.
Its requests may be answered late.")

(cl-defstruct (codeclippy--promise (:constructor codeclippy--promise))
  "The result of a request of the server that is known later.
THEN is the function that sends it, once that is known; SETTLED whether
VALUE is the result."
  then settled value)

(defun codeclippy--settle (promise value)
  "Answer the request behind PROMISE with VALUE, the first time only."
  (unless (codeclippy--promise-settled promise)
    (setf (codeclippy--promise-settled promise) t
          (codeclippy--promise-value promise) value)
    (when-let ((then (codeclippy--promise-then promise)))
      (funcall then value))))

(cl-defmethod jsonrpc-connection-send :around ((peer codeclippy--peer) &rest args)
  "Send ARGS to PEER; an answer that is a promise is sent when it is settled.
The dispatcher of jsonrpc must return a result at once, and a user who looks
at a diff takes time.  An answer to a server that has ended is not sent."
  (let ((result (plist-get args :result)))
    (cond ((codeclippy--promise-p result)
           (let ((send (lambda (value)
                         (apply #'jsonrpc-connection-send peer (plist-put (copy-sequence args) :result value)))))
             (if (codeclippy--promise-settled result)
                 (funcall send (codeclippy--promise-value result))
               (setf (codeclippy--promise-then result) send))))
          ((or (jsonrpc-running-p peer) (not (or (plist-member args :result) (plist-member args :error))))
           (cl-call-next-method)))))

(cl-defgeneric codeclippy--encoding (peer)
  "What a column of a position counts for PEER: the string utf-16 or utf-32.")

(cl-defgeneric codeclippy--flush (peer)
  "Send PEER what has changed in this buffer, so that it sees what the user sees.")

(cl-defgeneric codeclippy--identifier (peer)
  "The uri and version under which PEER knows this buffer, a property list.")

(cl-defgeneric codeclippy--buffer (peer uri)
  "The buffer that PEER knows as URI, or nil.")

(defun codeclippy--object (value)
  "The settings VALUE as jsonrpc wants it.
That is, nil becomes false, a list an object or an array."
  (cond ((null value) :json-false)
        ((not (consp value)) value)
        ((keywordp (car value))
         (cl-loop for (key inner) on value by #'cddr append (list key (codeclippy--object inner))))
        ((consp (car value))
         (cl-loop for (key . inner) in value
                  append (list (intern (format ":%s" (string-remove-prefix ":" (format "%s" key))))
                               (codeclippy--object inner))))
        (t (vconcat (mapcar #'codeclippy--object value)))))

(defun codeclippy--options (&optional more)
  "The user's settings as an object, with the property list MORE."
  (let ((object (append more (and codeclippy-settings (codeclippy--object codeclippy-settings)))))
    (or object (make-hash-table))))

(defun codeclippy--say (format &rest args)
  "Tell the user FORMAT with ARGS, in the echo area and in the log of messages."
  (message "Code Clippy: %s" (apply #'format-message format args)))

(defun codeclippy--progress (peer token value)
  "Note the progress VALUE of TOKEN from PEER."
  (pcase (plist-get value :kind)
    ("begin" (when (eq (plist-get value :cancellable) t)
               (push (cons token (plist-get value :title)) (codeclippy--tasks peer))))
    ("end" (setf (codeclippy--tasks peer) (cl-remove token (codeclippy--tasks peer) :key #'car :test #'equal))))
  (force-mode-line-update t))

;;;; Text and positions

(defconst codeclippy--line-end "\r\n\\|\r\\|\n"
  "What ends a line in the protocol; in Emacs only the last does.")

(defun codeclippy--clean (text)
  "TEXT without what cannot be sent: raw bytes and surrogates become U+FFFD."
  (replace-regexp-in-string "[\ud800-\udfff\x110000-\x3fffff]" "\ufffd" text t t))

(defun codeclippy--text (start end)
  "The text between START and END as it is sent."
  (codeclippy--clean (buffer-substring-no-properties start end)))

(defun codeclippy--carriage-return-p ()
  "Whether the buffer has a carriage return.
It may have lines then that Emacs does not count."
  (save-excursion
    (goto-char (point-min))
    (search-forward "\r" nil t)))

(defun codeclippy--units (text encoding)
  "The length of TEXT in units of ENCODING."
  (+ (length text)
     (if (equal encoding "utf-32") 0 (cl-count-if (lambda (character) (> character #xffff)) text))))

(defun codeclippy--position (peer place)
  "The position of PLACE in this buffer for PEER."
  (save-excursion
    (save-restriction
      (widen)
      (goto-char place)
      (let ((line (1- (line-number-at-pos place t)))
            (start (line-beginning-position)))
        (when (codeclippy--carriage-return-p)
          (goto-char (point-min))
          (setq line 0 start (point-min))
          (while (re-search-forward codeclippy--line-end place t)
            (cl-incf line)
            (setq start (point))))
        (list :line line
              :character (codeclippy--units (codeclippy--text start place) (codeclippy--encoding peer)))))))

(defun codeclippy--place (peer position)
  "The place in this buffer of PEER's POSITION; the buffer must be widened.
A line past the end is the buffer's end, a column past the end of a line is
the end of the line."
  (save-excursion
    (goto-char (point-min))
    (if (codeclippy--carriage-return-p)
        (unless (re-search-forward codeclippy--line-end nil 'move (max 1 (plist-get position :line)))
          (goto-char (point-max)))
      (forward-line (plist-get position :line)))
    (when (zerop (plist-get position :line))
      (goto-char (point-min)))
    (let ((left (plist-get position :character))
          (wide (not (equal (codeclippy--encoding peer) "utf-32"))))
      (while (and (> left 0) (not (eobp)) (not (memq (char-after) '(?\n ?\r))))
        (cl-decf left (if (and wide (< #xffff (char-after) #x110000)) 2 1))
        (when (>= left 0)
          (forward-char)))
      (point))))

;;;; Our own connection

(defclass codeclippy-connection (codeclippy--peer jsonrpc-process-connection)
  ((encoding :initform "utf-16" :accessor codeclippy--connection-encoding
             :documentation "What columns count.")
   (state :initform "loading" :accessor codeclippy--connection-state
          :documentation "The state of the model as the server says it.")
   (reason :initform "" :accessor codeclippy--connection-reason
           :documentation "Why it failed.")
   (initialized :initform nil :accessor codeclippy--initialized
                :documentation "Whether the server has answered the first request.")
   (waiting :initform nil :accessor codeclippy--waiting
            :documentation "Functions to call once it has, the newest first.")
   (stopping :initform nil :accessor codeclippy--stopping
             :documentation "Whether its end is wanted."))
  "The connection of `codeclippy-mode'; there is one for all buffers.")

(cl-defmethod codeclippy--encoding ((connection codeclippy-connection))
  "What was agreed on with CONNECTION."
  (codeclippy--connection-encoding connection))

(defvar codeclippy--buffers (make-hash-table :test #'equal)
  "The buffers that are open in the server, by uri.")

(defvar codeclippy--deaths nil
  "When the server died, the latest first; reset by `codeclippy-restart'.")

(defvar codeclippy--failure nil
  "Why there is no server, a sentence, or nil.")

(defvar codeclippy--restart-timer nil
  "The timer that will start the server again, or nil.")

(defun codeclippy--capabilities ()
  "What this client can do."
  (list :general (list :positionEncodings ["utf-32" "utf-16"])
        :window (list :workDoneProgress t :showDocument (list :support t))
        :workspace (list :applyEdit t
                         :configuration t
                         :workspaceEdit (list :documentChanges t
                                              :changeAnnotationSupport (list :groupsOnLabel :json-false)))
        :textDocument (list :synchronization (list :dynamicRegistration :json-false)
                            :inlineCompletion (list :dynamicRegistration :json-false))))

(defun codeclippy--make-process ()
  "Start the server's program."
  (let ((default-directory (expand-file-name "~/")))
    (make-process :name "codeclippy" :command codeclippy-command :connection-type 'pipe :coding 'utf-8-emacs-unix
                  :noquery t :stderr (get-buffer-create "*codeclippy stderr*"))))

(defun codeclippy--connect ()
  "Start the server and introduce ourselves."
  (setq codeclippy--restart-timer nil
        codeclippy--failure nil)
  (condition-case error
      (let ((connection
             (apply #'make-instance 'codeclippy-connection
                    :name "codeclippy"
                    :process #'codeclippy--make-process
                    :request-dispatcher #'codeclippy--answer
                    :notification-dispatcher #'codeclippy--notice
                    :on-shutdown #'codeclippy--died
                    ;; The option was renamed in the jsonrpc of Emacs 30.  No log of source text by default.
                    (if (slot-exists-p 'jsonrpc-connection '-events-buffer-config)
                        (list :events-buffer-config '(:size 0 :format short))
                      (list :events-buffer-scrollback-size 0)))))
        (setq codeclippy--connection connection)
        (jsonrpc-async-request
         connection :initialize
         (list :processId (emacs-pid)
               :clientInfo (list :name "Emacs" :version emacs-version)
               :rootUri nil
               :initializationOptions (codeclippy--options '(:statusNotification t))
               :capabilities (codeclippy--capabilities))
         :success-fn (lambda (result)
                       (when (and (codeclippy--current-p connection) (jsonrpc-running-p connection))
                         (codeclippy--connected connection result)))
         :error-fn (lambda (failure)
                     (when (codeclippy--current-p connection)
                       (codeclippy--fail (plist-get failure :message))))
         :timeout 120))
    (file-missing
     (codeclippy--fail (format "%s was not found; install it with pip install codeclippy-ls, or set codeclippy-command"
                               (car codeclippy-command))))
    (error (codeclippy--fail (error-message-string error))))
  (force-mode-line-update t))

(defun codeclippy--current-p (connection)
  "Whether CONNECTION is the one in use, and not one that was stopped."
  (eq connection codeclippy--connection))

(defun codeclippy--fail (reason)
  "Note that there is no server, and its REASON, which is told once."
  (unless (equal reason codeclippy--failure)
    (setq codeclippy--failure reason)
    (codeclippy--say "%s" reason))
  (force-mode-line-update t))

(defun codeclippy--connected (connection result)
  "The server behind CONNECTION has answered the first request with RESULT."
  (setf (codeclippy--initialized connection) t
        (codeclippy--connection-encoding connection)
        (or (plist-get (plist-get result :capabilities) :positionEncoding) "utf-16"))
  (jsonrpc-notify connection :initialized (make-hash-table))
  (dolist (buffer (buffer-list))
    (with-current-buffer buffer
      (when (bound-and-true-p codeclippy-mode)
        (codeclippy--flush connection))))
  (let ((waiting (nreverse (codeclippy--waiting connection))))
    (setf (codeclippy--waiting connection) nil)
    (mapc #'funcall waiting)))

(defun codeclippy--ensure ()
  "The connection, started where there is none.
It is nil where that fails or is being waited for."
  (cond ((and codeclippy--connection (jsonrpc-running-p codeclippy--connection)) codeclippy--connection)
        ((or codeclippy--restart-timer codeclippy--failure) nil)
        (t (codeclippy--connect)
           (and (null codeclippy--failure) codeclippy--connection))))

(defun codeclippy--ready ()
  "The connection, if the server can be asked now; else nil."
  (let ((connection (codeclippy--ensure)))
    (and connection (codeclippy--initialized connection) connection)))

(defun codeclippy--died (connection)
  "Start the server again after the end of CONNECTION.
Not where that was wanted, or happens too often."
  (unless (or (codeclippy--stopping connection) (not (codeclippy--current-p connection)))
    (clrhash codeclippy--buffers)
    (setf (codeclippy--tasks connection) nil)
    (let ((now (float-time)))
      (setq codeclippy--deaths (cons now (cl-remove-if (lambda (time) (> (- now time) 180)) codeclippy--deaths)))
      (if (> (length codeclippy--deaths) codeclippy-max-restarts)
          (codeclippy--fail "the server keeps dying; see M-x codeclippy-show-log, then M-x codeclippy-restart")
        (setq codeclippy--restart-timer
              (run-at-time (expt 2 (1- (length codeclippy--deaths))) nil #'codeclippy--connect))))
    (force-mode-line-update t)))

(defun codeclippy--stop ()
  "End the server, politely and without waiting."
  (when (timerp codeclippy--restart-timer)
    (cancel-timer codeclippy--restart-timer))
  (setq codeclippy--restart-timer nil)
  (clrhash codeclippy--buffers)
  (when-let ((connection codeclippy--connection))
    (setf (codeclippy--stopping connection) t)
    (when (jsonrpc-running-p connection)
      (ignore-errors
        (jsonrpc-async-request connection :shutdown nil :success-fn #'ignore :error-fn #'ignore :timeout-fn #'ignore)
        (jsonrpc-notify connection :exit nil)))
    (setq codeclippy--connection nil)))

(defun codeclippy--answer (connection method params)
  "Answer the request METHOD with PARAMS that came from CONNECTION."
  (pcase method
    ('workspace/applyEdit (codeclippy--apply connection params))
    ('workspace/configuration
     (vconcat (mapcar (lambda (_item) (codeclippy--options)) (plist-get params :items))))
    ((or 'window/workDoneProgress/create 'client/registerCapability 'client/unregisterCapability) nil)
    ('window/showDocument (codeclippy--show connection params))
    ('window/showMessageRequest (codeclippy--question connection params))
    (_ (jsonrpc-error :code -32601 :message (format "no method %s" method)))))

(defun codeclippy--notice (connection method params)
  "Take in the notification METHOD with PARAMS that came from CONNECTION."
  (pcase method
    ('codeclippy/status
     (let ((before (codeclippy--connection-state connection)))
       (setf (codeclippy--connection-state connection) (plist-get params :state)
             (codeclippy--connection-reason connection) (or (plist-get params :message) ""))
       (when (and (equal (plist-get params :state) "ready") (not (equal before "ready")))
         (codeclippy--ask-again))))
    ('$/progress (codeclippy--progress connection (plist-get params :token) (plist-get params :value)))
    ('window/showMessage
     (codeclippy--say "%s" (string-remove-prefix "Code Clippy: " (plist-get params :message)))))
  (force-mode-line-update t))

(defun codeclippy--settings-changed ()
  "Send the settings to the running server, but for what takes a restart."
  (when (and codeclippy--connection
             (jsonrpc-running-p codeclippy--connection)
             (codeclippy--initialized codeclippy--connection))
    (let ((options (codeclippy--options)))
      (jsonrpc-notify codeclippy--connection :workspace/didChangeConfiguration
                      (list :settings
                            (list :codeclippy
                                  (if (hash-table-p options)
                                      options
                                    (or (cl-loop for (key value) on options by #'cddr
                                                 unless (eq key :model) append (list key value))
                                        (make-hash-table)))))))))

;;;; Documents of our own connection

(defvar-local codeclippy--opened nil
  "The connection that this buffer is open in, or nil.")

(defvar-local codeclippy--uri nil
  "The uri that it is open under.")

(defvar-local codeclippy--version 0
  "The version that was sent last.")

(defvar-local codeclippy--sent nil
  "What was sent last: its modification tick, size, and number of line ends.")

(defvar-local codeclippy--changed nil
  "What has changed since it was sent.
The numbers of characters before and after that have not, and the growth.")

(defun codeclippy--make-uri ()
  "The uri of this buffer; one that is not a local file has a scheme of its own."
  (if (and buffer-file-name (not (file-remote-p buffer-file-name)))
      (concat "file://" (if (eq system-type 'windows-nt) "/")
              (url-hexify-string (file-truename buffer-file-name)
                                 (url--allowed-chars (append '(?/) (if (eq system-type 'windows-nt) '(?:))
                                                             url-unreserved-chars))))
    (concat "untitled:" (url-hexify-string (or buffer-file-name (buffer-name))))))

(defun codeclippy--language ()
  "The protocol's name of this buffer's language."
  (let ((name (replace-regexp-in-string "\\(?:-ts\\)?-mode\\'" "" (symbol-name major-mode))))
    (alist-get name codeclippy-language-ids name nil #'equal)))

(defun codeclippy--note-sent ()
  "Remember that the server has the text as it is now."
  (setq codeclippy--sent (list (buffer-chars-modified-tick) (buffer-size) (1- (line-number-at-pos (point-max) t)))
        codeclippy--changed nil))

(defun codeclippy--open (connection)
  "Open this buffer in the server behind CONNECTION."
  (save-restriction
    (widen)
    (setq codeclippy--opened connection
          codeclippy--uri (codeclippy--make-uri))
    (cl-incf codeclippy--version)
    (puthash codeclippy--uri (current-buffer) codeclippy--buffers)
    (jsonrpc-notify connection :textDocument/didOpen
                    (list :textDocument (list :uri codeclippy--uri :languageId (codeclippy--language)
                                              :version codeclippy--version
                                              :text (codeclippy--text (point-min) (point-max)))))
    (codeclippy--note-sent)))

(defun codeclippy--close ()
  "Close this buffer in the server."
  (when (and codeclippy--opened (eq codeclippy--opened codeclippy--connection) (jsonrpc-running-p codeclippy--opened))
    (jsonrpc-notify codeclippy--opened :textDocument/didClose (list :textDocument (list :uri codeclippy--uri))))
  (when codeclippy--uri
    (remhash codeclippy--uri codeclippy--buffers))
  (setq codeclippy--opened nil))

(defun codeclippy--note-change (start end length)
  "Note that LENGTH characters have become those from START to END."
  (save-restriction
    (widen)
    (pcase-let ((`(,before ,after ,growth) (or codeclippy--changed (list (buffer-size) (buffer-size) 0))))
      (setq codeclippy--changed (list (min before (- start (point-min)))
                                      (min after (- (point-max) end))
                                      (+ growth (- end start length)))))))

(defun codeclippy--change ()
  "The change from what was sent to what there is: whole lines, or the whole text.
A range of whole lines needs no columns, and so no old text to count them in."
  (pcase-let ((`(,_ ,size ,breaks) codeclippy--sent)
              (`(,before ,after ,growth) codeclippy--changed))
    (if (or (null codeclippy--changed)  ; changed by something that ran no hooks
            (/= (+ size growth) (buffer-size))
            (codeclippy--carriage-return-p))
        (list :text (codeclippy--text (point-min) (point-max)))
      (save-excursion
        (let* ((start (progn (goto-char (+ (point-min) before)) (line-beginning-position)))
               ;; A start of a line behind a line end that has not changed.
               (end (progn (goto-char (max (point) (- (point-max) after))) (line-beginning-position 2)))
               (first (1- (line-number-at-pos start t)))
               (last (if (= end (point-max))
                         (1+ breaks)  ; past the last line: the end of the text
                       (- breaks (- (line-number-at-pos (point-max) t) (line-number-at-pos end t))))))
          (list :range (list :start (list :line first :character 0) :end (list :line last :character 0))
                :text (codeclippy--text start end)))))))

(cl-defmethod codeclippy--flush ((connection codeclippy-connection))
  "Send CONNECTION the text of this buffer as it is now."
  (save-restriction
    (widen)
    (cond ((or (not (eq codeclippy--opened connection))
               (not (eq (gethash codeclippy--uri codeclippy--buffers) (current-buffer))))
           (codeclippy--open connection))
          ((/= (buffer-chars-modified-tick) (car codeclippy--sent))
           (let ((change (codeclippy--change)))
             (cl-incf codeclippy--version)
             (jsonrpc-notify connection :textDocument/didChange
                             (list :textDocument (list :uri codeclippy--uri :version codeclippy--version)
                                   :contentChanges (vector change))))
           (codeclippy--note-sent)))))

(cl-defmethod codeclippy--identifier ((_connection codeclippy-connection))
  "The buffer's uri and version."
  (list :uri codeclippy--uri :version codeclippy--version))

(cl-defmethod codeclippy--buffer ((_connection codeclippy-connection) uri)
  "The buffer that is open as URI."
  (gethash uri codeclippy--buffers))

;;;; Ghost text

(defvar-local codeclippy--overlay nil
  "The overlay that shows the suggestion.")

(defvar-local codeclippy--showing nil
  "Whether a suggestion is shown; its keys are bound only then.")

(defvar-local codeclippy--items nil
  "The suggestions that are known: a list of (TEXT COMMAND TAKEN).
TAKEN characters after point are replaced.")

(defvar-local codeclippy--index 0
  "Which of them is shown.")

(defvar-local codeclippy--start nil
  "Where they begin; what has been typed of one since lies between here and point.")

(defvar-local codeclippy--rest nil
  "The text of the line behind the suggestion, which must stay as it is.")

(defvar-local codeclippy--asked nil
  "The text and the place that typing asked for last: tick and point.")

(defvar-local codeclippy--seen nil
  "The `buffer-chars-modified-tick' after the last command.")

(defvar codeclippy--timer nil
  "The timer of the next request.")

(defvar codeclippy-completion-map
  (let ((map (make-sparse-keymap)))
    (define-key map (kbd "TAB") #'codeclippy-accept)
    (define-key map [tab] #'codeclippy-accept)
    (define-key map (kbd "M-f") #'codeclippy-accept-word)
    (define-key map [M-right] #'codeclippy-accept-word)
    (define-key map (kbd "C-M-f") #'codeclippy-accept-line)
    (define-key map [C-M-right] #'codeclippy-accept-line)
    (define-key map (kbd "M-n") #'codeclippy-next)
    (define-key map (kbd "M-p") #'codeclippy-previous)
    (define-key map (kbd "C-g") #'codeclippy-dismiss)
    map)
  "Keys while a suggestion is shown, and only then.")

(defvar codeclippy--keys (list (cons 'codeclippy--showing codeclippy-completion-map))
  "The keys for `emulation-mode-map-alists': before those of minor modes.")

(defun codeclippy--hide ()
  "Show no suggestion."
  (when codeclippy--overlay
    (delete-overlay codeclippy--overlay))
  (setq codeclippy--overlay nil
        codeclippy--showing nil
        codeclippy--items nil))

(defun codeclippy--left ()
  "What of the suggestion is still to be typed.
It is nil where point or the text have left it."
  (when codeclippy--items
    (let* ((text (car (nth codeclippy--index codeclippy--items)))
           (typed (- (point) codeclippy--start)))
      (and (<= 0 typed) (< typed (length text))
           (equal (buffer-substring-no-properties codeclippy--start (point)) (substring text 0 typed))
           (equal (buffer-substring-no-properties (point) (line-end-position)) codeclippy--rest)
           (substring text typed)))))

(defun codeclippy--draw ()
  "Draw what is left of the suggestion at point, or hide it."
  (let ((left (codeclippy--left)))
    (if (null left)
        (codeclippy--hide)
      (unless codeclippy--overlay
        (setq codeclippy--overlay (make-overlay (point) (point)))
        (overlay-put codeclippy--overlay 'priority 100)
        (overlay-put codeclippy--overlay 'window (selected-window)))
      (move-overlay codeclippy--overlay (point) (point))
      (let ((text (propertize (codeclippy--drawn left) 'face 'codeclippy-ghost)))
        (put-text-property 0 1 'cursor t text)  ; the cursor stays before it
        (overlay-put codeclippy--overlay 'after-string text))
      (setq codeclippy--showing t))))

(defun codeclippy--drawn (text)
  "TEXT as it is drawn: the cursor needs a character of its own before a line end."
  (if (string-prefix-p "\n" text) (concat " " text) text))

(defun codeclippy--item (connection item)
  "The text and command of the server's ITEM from CONNECTION, and what it takes.
That is how many characters after point: closing brackets that it brings
along.  It is nil where the item is not for point."
  (let* ((text (plist-get item :insertText))
         (text (if (stringp text) text (plist-get text :value)))
         (range (plist-get item :range))
         (start (if range (codeclippy--place connection (plist-get range :start)) (point)))
         (end (if range (codeclippy--place connection (plist-get range :end)) (point)))
         (typed (and (<= start (point)) (buffer-substring-no-properties start (point)))))
    (when (and typed (stringp text) (<= (point) end (line-end-position))
               (string-prefix-p typed text) (< (length typed) (length text)))
      (list (substring text (length typed)) (plist-get item :command) (- end (point))))))

(defun codeclippy--take (connection result)
  "Show the RESULT of a request to CONNECTION for this text and point."
  (let* ((items (if (vectorp result) result (plist-get result :items)))
         (found (save-restriction
                  (widen)
                  (delq nil (mapcar (lambda (item) (codeclippy--item connection item)) items)))))
    (when found
      (codeclippy--hide)
      (setq codeclippy--items found
            codeclippy--index 0
            codeclippy--start (point)
            codeclippy--rest (buffer-substring-no-properties (point) (line-end-position)))
      (codeclippy--draw))))

(defun codeclippy--request (invoked &optional then)
  "Ask for suggestions at point; INVOKED where the user wants it now.
An answer to another text or for another point is dropped.  THEN is called
with the number of suggestions that came."
  (when-let ((connection (codeclippy--ready)))
    (codeclippy--flush connection)
    (let ((buffer (current-buffer)) (place (point)) (tick (buffer-chars-modified-tick)))
      (jsonrpc-async-request
       connection :textDocument/inlineCompletion
       (list :textDocument (list :uri codeclippy--uri)
             :position (codeclippy--position connection place)
             :context (list :triggerKind (if invoked 1 2)))
       :success-fn
       (lambda (result)
         (when (and (buffer-live-p buffer) (eq buffer (window-buffer (selected-window))))
           (with-current-buffer buffer
             (when (and (= place (point)) (= tick (buffer-chars-modified-tick)) (bound-and-true-p codeclippy-mode))
               (codeclippy--take connection result)
               (when then
                 (funcall then (length codeclippy--items)))))))
       :error-fn #'ignore :timeout-fn #'ignore :timeout 60))))

(defun codeclippy--quiet-p ()
  "Whether no suggestion is wanted here now.
Another list is open, or this is no place to type."
  (or buffer-read-only
      (region-active-p)
      (bound-and-true-p completion-in-region-mode)
      (bound-and-true-p company-candidates)))

(defun codeclippy--ask (buffer)
  "Ask for a suggestion in BUFFER, if the user is still there."
  (setq codeclippy--timer nil)
  (when (and (buffer-live-p buffer) (eq buffer (window-buffer (selected-window))))
    (with-current-buffer buffer
      (when (and (bound-and-true-p codeclippy-mode) (not codeclippy--showing) (not (codeclippy--quiet-p)))
        (setq codeclippy--asked (cons (buffer-chars-modified-tick) (point)))
        (codeclippy--request nil)))))

(defun codeclippy--ask-again ()
  "Ask for what there was no model for when the user asked, who still waits there."
  (with-current-buffer (window-buffer (selected-window))
    (when (equal codeclippy--asked (cons (buffer-chars-modified-tick) (point)))
      (codeclippy--ask (current-buffer)))))

(defun codeclippy--after-command ()
  "Keep, move or hide the suggestion; after a change of the text ask for one."
  (let ((changed (not (eql codeclippy--seen (buffer-chars-modified-tick)))))
    (setq codeclippy--seen (buffer-chars-modified-tick))
    (when codeclippy--showing
      (if (codeclippy--quiet-p) (codeclippy--hide) (codeclippy--draw)))
    (when (and changed codeclippy-idle-delay)
      (when (timerp codeclippy--timer)
        (cancel-timer codeclippy--timer))
      (setq codeclippy--timer
            (unless codeclippy--showing
              (run-with-timer codeclippy-idle-delay nil #'codeclippy--ask (current-buffer)))))))

(defun codeclippy--left-window (window)
  "Hide the suggestion that is drawn in WINDOW if the user has left it."
  (unless (eq window (selected-window))
    (with-current-buffer (window-buffer window)
      (when (and codeclippy--overlay (eq window (overlay-get codeclippy--overlay 'window)))
        (codeclippy--hide)))))

(defun codeclippy--accept-part (pattern)
  "Insert what PATTERN matches of the suggestion, all of it where that is nil.
This is one step of undo."
  (let ((left (codeclippy--left))
        (command (nth 1 (nth codeclippy--index codeclippy--items)))
        (taken (nth 2 (nth codeclippy--index codeclippy--items))))
    (unless left
      (user-error "There is no suggestion"))
    (let ((piece (if (and pattern (string-match pattern left)) (match-string 0 left) left))
          (rest codeclippy--rest))
      (undo-boundary)
      (when (equal piece left)
        (delete-region (point) (+ (point) taken)))
      (insert piece)
      (undo-boundary)
      (if (equal piece left)
          (progn
            (codeclippy--hide)
            (when (and command codeclippy--opened (jsonrpc-running-p codeclippy--opened))
              (jsonrpc-async-request codeclippy--opened :workspace/executeCommand
                                     (list :command (plist-get command :command)
                                           :arguments (or (plist-get command :arguments) []))
                                     :success-fn #'ignore :error-fn #'ignore)))
        (setq codeclippy--rest rest)
        (codeclippy--draw)))))

(defun codeclippy-accept ()
  "Insert the suggestion."
  (interactive)
  (codeclippy--accept-part nil))

(defun codeclippy-accept-word ()
  "Insert the suggestion's next word, or its next run of other characters."
  (interactive)
  (codeclippy--accept-part "\\`[[:space:]\n]*\\(?:\\(?:\\w\\|_\\)+\\|\\(?:[^[:word:]_[:space:]\n]\\)+\\)"))

(defun codeclippy-accept-line ()
  "Insert the suggestion up to the end of its line."
  (interactive)
  (codeclippy--accept-part "\\`\n?[^\n]*"))

(defun codeclippy-dismiss ()
  "Hide the suggestion."
  (interactive)
  (codeclippy--hide))

(defun codeclippy--turn (step)
  "Show the suggestion STEP further; ask for more where only one is known."
  (if (cdr codeclippy--items)
      (progn
        (setq codeclippy--index (mod (+ codeclippy--index step) (length codeclippy--items)))
        (codeclippy--draw))
    (codeclippy--request t (lambda (count)
                             (if (< count 2)
                                 (codeclippy--say "there is no other suggestion")
                               (setq codeclippy--index (mod step count))
                               (codeclippy--draw))))))

(defun codeclippy-next ()
  "Show the next suggestion."
  (interactive)
  (codeclippy--turn 1))

(defun codeclippy-previous ()
  "Show the previous suggestion."
  (interactive)
  (codeclippy--turn -1))

(defun codeclippy-complete ()
  "Ask for a suggestion at point now."
  (interactive)
  (unless (bound-and-true-p codeclippy-mode)
    (codeclippy-mode 1))
  (unless (codeclippy--request t (lambda (count)
                                   (when (zerop count)
                                     (codeclippy--say "there is no suggestion here"))))
    (codeclippy--say "%s" (or codeclippy--failure "the server is starting"))))

;;;; Applying edits

(defun codeclippy--regions (peer edits)
  "EDITS from PEER as a sorted list of (START END TEXT).
The buffer must be widened."
  (sort (mapcar (lambda (edit)
                  (let ((range (plist-get edit :range)))
                    (list (codeclippy--place peer (plist-get range :start))
                          (codeclippy--place peer (plist-get range :end))
                          (plist-get edit :newText))))
                edits)
        (lambda (one other) (< (car one) (car other)))))

(defun codeclippy--put (regions)
  "Put REGIONS into this buffer as one step of undo.
Point and markers stay by their text."
  (undo-boundary)
  (atomic-change-group
    (let ((group (prepare-change-group)))
      (pcase-dolist (`(,start ,end ,text) (reverse regions))
        (save-excursion
          (replace-region-contents start end (lambda () text) 0.5)))
      (undo-amalgamate-change-group group)))
  (undo-boundary))

(defun codeclippy--target (peer change)
  "The buffer of CHANGE from PEER, or why it cannot be applied, a sentence."
  (let* ((document (plist-get change :textDocument))
         (buffer (codeclippy--buffer peer (plist-get document :uri)))
         (version (plist-get document :version)))
    (if (not (buffer-live-p buffer))
        "the document is not open"
      (with-current-buffer buffer
        (codeclippy--flush peer)
        (cond ((and version (/= version (plist-get (codeclippy--identifier peer) :version)))
               "the document changed meanwhile")
              (buffer-read-only "the buffer is read-only")
              (t buffer))))))

(defun codeclippy--refused (reason)
  "The answer that an edit was not applied, for REASON."
  (list :applied :json-false :failureReason reason))

(defun codeclippy--apply-now (peer change)
  "Apply CHANGE from PEER; the answer to the server."
  (let ((buffer (codeclippy--target peer change)))
    (if (stringp buffer)
        (codeclippy--refused buffer)
      (with-current-buffer buffer
        (codeclippy--hide)
        (save-restriction
          (widen)
          (codeclippy--put (codeclippy--regions peer (plist-get change :edits)))))
      (list :applied t))))

(defun codeclippy--apply (peer params)
  "Apply the edit in PARAMS from PEER, or show it first.
The value is the answer, or the promise of one."
  (let* ((edit (plist-get params :edit))
         (changes (plist-get edit :documentChanges))
         (annotations (cl-loop for (_ annotation) on (plist-get edit :changeAnnotations) by #'cddr
                               collect annotation)))
    (cond ((or (/= (length changes) 1) (null (plist-get (aref changes 0) :edits)))
           (codeclippy--refused "only edits of one document are applied"))
          ((not (or codeclippy-confirm-edits
                    (cl-some (lambda (annotation) (eq (plist-get annotation :needsConfirmation) t)) annotations)))
           (codeclippy--apply-now peer (aref changes 0)))
          (t
           (let ((promise (codeclippy--promise)))
             (codeclippy--when-free
              (lambda () (codeclippy--preview peer (aref changes 0) (plist-get params :label) promise)))
             promise)))))

;;;; The preview

(defun codeclippy--lines (text)
  "The lines of TEXT, without their ends; a last one that is empty does not count."
  (let ((lines (split-string text "\n")))
    (if (equal (car (last lines)) "") (butlast lines) lines)))

(defun codeclippy--blocks (regions)
  "REGIONS as a list of (LINE OLD NEW), without overlap.
Each is whole lines from LINE on that change from OLD to NEW."
  (let (blocks)
    (while regions
      ;; All regions that touch the same lines make one block.
      (let* ((start (save-excursion (goto-char (caar regions)) (line-beginning-position)))
             (place start)
             (end start)
             (new ""))
        (while (and regions (or (= place start) (< (caar regions) end)))
          (pcase-let ((`(,from ,to ,text) (pop regions)))
            (setq new (concat new (buffer-substring-no-properties place from) text)
                  place to
                  end (save-excursion
                        (goto-char to)
                        (if (and (bolp) (> to start) (or (string-suffix-p "\n" new) (string-empty-p new)))
                            to
                          (min (point-max) (line-beginning-position 2)))))))
        (setq new (concat new (buffer-substring-no-properties place end)))
        (push (codeclippy--trim (1- (line-number-at-pos start t))
                                (codeclippy--lines (buffer-substring-no-properties start end))
                                (codeclippy--lines new))
              blocks)))
    (nreverse blocks)))

(defun codeclippy--trim (line old new)
  "The block (LINE OLD NEW) without what OLD and NEW begin or end with alike."
  (while (and old new (equal (car old) (car new)))
    (cl-incf line)
    (pop old)
    (pop new))
  (let ((old (reverse old)) (new (reverse new)))
    (while (and old new (equal (car old) (car new)))
      (pop old)
      (pop new))
    (list line (nreverse old) (nreverse new))))

(defun codeclippy--diff (regions)
  "What REGIONS would change in this buffer, as a unified diff."
  (let ((lines (vconcat (codeclippy--lines (buffer-substring-no-properties (point-min) (point-max)))))
        (blocks (codeclippy--blocks regions))
        (growth 0)
        (hunks nil))
    (while blocks
      (let* ((start (max 0 (- (caar blocks) 3)))
             (at start)
             (grown growth)
             (body nil)
             (more t))
        (while more
          (pcase-let ((`(,line ,old ,new) (pop blocks)))
            (cl-loop for number from at below line do (push (concat " " (aref lines number)) body))
            (dolist (text old) (push (concat "-" text) body))
            (dolist (text new) (push (concat "+" text) body))
            (setq at (+ line (length old))
                  grown (+ grown (- (length new) (length old)))
                  more (and blocks (<= (caar blocks) (+ at 6))))))
        (let ((end (min (length lines) (+ at 3))))
          (cl-loop for number from at below end do (push (concat " " (aref lines number)) body))
          (push (concat (format "@@ -%d,%d +%d,%d @@\n" (1+ start) (- end start) (+ 1 start growth)
                                (- (+ end grown) (+ start growth)))
                        (mapconcat #'identity (nreverse body) "\n"))
                hunks))
        (setq growth grown)))
    (mapconcat #'identity (nreverse hunks) "\n")))

(defvar-local codeclippy--answer-function nil
  "Called in the preview with t, nil or `next' when the user has answered.")

(defvar-local codeclippy--next-p nil
  "Whether the preview is one of several.")

(defvar codeclippy-preview-mode-map
  (let ((map (make-sparse-keymap)))
    (define-key map "y" #'codeclippy-preview-apply)
    (define-key map "n" #'codeclippy-preview-discard)
    (define-key map "q" #'codeclippy-preview-discard)
    (define-key map (kbd "M-n") #'codeclippy-preview-next)
    (define-key map (kbd "C-c C-c") #'codeclippy-preview-apply)
    (define-key map (kbd "C-c C-k") #'codeclippy-preview-discard)
    map)
  "Keys of the preview of an edit.")

(define-derived-mode codeclippy-preview-mode diff-mode "Edit-Preview"
  "An edit that waits for its user: y applies it, n discards it."
  ;; Else the keys of a read-only diff would go first: n to the next hunk.
  (setq-local minor-mode-overriding-map-alist nil)
  (setq-local revert-buffer-function nil)
  (setq header-line-format " y apply   n discard")
  (setq buffer-read-only t)
  (add-hook 'kill-buffer-hook #'codeclippy--preview-killed nil t))

(defun codeclippy--preview-killed ()
  "Take a preview that is killed for one that is discarded."
  (when codeclippy--answer-function
    (funcall (prog1 codeclippy--answer-function (setq codeclippy--answer-function nil)) nil)))

(defun codeclippy--preview-answer (choice)
  "Close the preview and answer CHOICE: t, nil or `next'."
  (let ((answer (prog1 codeclippy--answer-function (setq codeclippy--answer-function nil))))
    (quit-window t)
    (when answer
      (funcall answer choice))))

(defun codeclippy-preview-apply ()
  "Apply the edit that is shown."
  (interactive nil codeclippy-preview-mode)
  (codeclippy--preview-answer t))

(defun codeclippy-preview-discard ()
  "Discard the edit that is shown."
  (interactive nil codeclippy-preview-mode)
  (codeclippy--preview-answer nil))

(defun codeclippy-preview-next ()
  "Show the next of the edits that were proposed."
  (interactive nil codeclippy-preview-mode)
  (unless codeclippy--next-p
    (user-error "There is no other edit"))
  (codeclippy--preview-answer 'next))

(defun codeclippy--pop-up (text answer &optional next)
  "Show the diff TEXT; ANSWER is called with the user's choice.
That is t, nil, or `next' where there is a NEXT one."
  (with-current-buffer (generate-new-buffer "*codeclippy edit*")
    (insert text)
    (goto-char (point-min))
    (codeclippy-preview-mode)
    (setq codeclippy--answer-function answer)
    (when next
      (setq codeclippy--next-p t
            header-line-format " y apply   M-n next   n discard"))
    (pop-to-buffer (current-buffer))))

(defun codeclippy--when-free (function)
  "Call FUNCTION soon, and not while the user types something else."
  ;; Not in the process's filter, which must return.
  (run-at-time (if (> (minibuffer-depth) 0) 0.3 0) nil
               (lambda ()
                 (if (> (minibuffer-depth) 0) (codeclippy--when-free function) (funcall function)))))

(defun codeclippy--preview (peer change label promise)
  "Show CHANGE from PEER under LABEL; the user's answer settles PROMISE."
  (let ((target (codeclippy--target peer change)))
    (if (stringp target)
        (codeclippy--settle promise (codeclippy--refused target))
      (let ((text (with-current-buffer target
                    (codeclippy--hide)
                    (save-restriction
                      (widen)
                      (codeclippy--diff (codeclippy--regions peer (plist-get change :edits))))))
            (name (buffer-name target)))
        (codeclippy--pop-up (format "--- %s\n+++ %s  (%s)\n%s\n" name name (or label "edit") text)
                            (lambda (yes)
                              (codeclippy--settle promise (if yes
                                                              (codeclippy--apply-now peer change)
                                                            (codeclippy--refused "discarded")))))))))

;;;; The server's own question about an edit (its setting edit.showDiff)

(defun codeclippy--show (peer params)
  "Keep the diff in PARAMS from PEER for the question that follows."
  (let ((file (decode-coding-string
               (url-unhex-string (string-remove-prefix "file://" (plist-get params :uri))) 'utf-8)))
    (setf (codeclippy--diff-shown peer)
          (with-temp-buffer
            (let ((coding-system-for-read 'utf-8))
              (insert-file-contents (if (eq system-type 'windows-nt) (string-remove-prefix "/" file) file)))
            (buffer-string)))
    (list :success t)))

(defun codeclippy--question (peer params)
  "Ask what PARAMS from PEER ask, under the diff that was shown.
The value is the promise of an answer.  The first of the actions is to apply
the edit, the last to discard it; one between them is the next edit."
  (let* ((promise (codeclippy--promise))
         (actions (append (plist-get params :actions) nil))
         (text (codeclippy--diff-shown peer)))
    (codeclippy--when-free
     (lambda ()
       (codeclippy--pop-up
        text
        (lambda (choice)
          (codeclippy--settle promise (pcase choice ('next (nth 1 actions)) ('nil nil) (_ (car actions)))))
        (cddr actions))
       (message "%s" (plist-get params :message))))
    promise))

;;;; Edits by message

(defvar codeclippy-edit-history nil
  "Messages given to `codeclippy-edit', the latest first.")

(defun codeclippy--read-message ()
  "Read a message, with earlier ones as history and presets as completions."
  (minibuffer-with-setup-hook
      (lambda ()
        (let ((map (make-sparse-keymap)))
          (set-keymap-parent map (current-local-map))
          (define-key map " " #'self-insert-command)  ; a message has spaces and question marks
          (define-key map "?" #'self-insert-command)
          (use-local-map map)))
    (completing-read "Edit: what shall change? " codeclippy-presets nil nil nil 'codeclippy-edit-history)))

(defun codeclippy--peer-here ()
  "The connection that serves this buffer: the mode's own, or eglot's.
Where there is neither, the mode is turned on."
  (let ((server (and (not (bound-and-true-p codeclippy-mode)) (eglot-current-server))))
    (if (cl-typep server 'codeclippy--peer)
        server
      (unless (bound-and-true-p codeclippy-mode)
        (codeclippy-mode 1))
      (or (codeclippy--ensure)
          (user-error "Code Clippy: %s" (or codeclippy--failure "the server is starting again"))))))

(defun codeclippy--when-ready (peer then)
  "Call THEN now, or once PEER has been initialized."
  (if (or (not (cl-typep peer 'codeclippy-connection)) (codeclippy--initialized peer))
      (funcall then)
    (push then (codeclippy--waiting peer))))

;;;###autoload
(defun codeclippy-edit (message &optional start end)
  "Have the region, or the function around point, edited by MESSAGE.
From Lisp, START and END are the region's.  An empty message means the one
in a comment there, as in \"# clippy: add a docstring\".  The edit is shown
first, unless the settings say otherwise; `codeclippy-cancel' stops it
while it is being written."
  (interactive (let ((message (codeclippy--read-message)))
                 (if (use-region-p)
                     (list message (region-beginning) (region-end))
                   (list message))))
  (barf-if-buffer-read-only)
  (let* ((peer (codeclippy--peer-here))
         (buffer (current-buffer))
         (from (copy-marker (or start (point))))
         (to (copy-marker (or end start (point)))))
    (deactivate-mark)
    (codeclippy--when-ready
     peer
     (lambda ()
       (when (buffer-live-p buffer)
         (with-current-buffer buffer
           (codeclippy--flush peer)
           (jsonrpc-async-request
            peer :workspace/executeCommand
            (list :command "codeclippy.edit"
                  :arguments (vector (append (codeclippy--identifier peer)
                                             (list :message message
                                                   :range (list :start (codeclippy--position peer from)
                                                                :end (codeclippy--position peer to))))))
            :success-fn #'ignore
            :error-fn (lambda (failure) (codeclippy--say "no edit: %s" (plist-get failure :message))))))))))

(defun codeclippy--peers ()
  "All live connections to codeclippy-ls that are known here."
  (cl-remove-if-not (lambda (peer) (and (cl-typep peer 'codeclippy--peer) (jsonrpc-running-p peer)))
                    (list codeclippy--connection (eglot-current-server))))

(defun codeclippy-cancel ()
  "Cancel the edits that are being written."
  (interactive)
  (let ((count 0))
    (dolist (peer (codeclippy--peers))
      (pcase-dolist (`(,token . ,_) (codeclippy--tasks peer))
        (cl-incf count)
        (jsonrpc-notify peer :window/workDoneProgress/cancel (list :token token))))
    (codeclippy--say (if (zerop count) "nothing is being written" "cancelled"))))

(defun codeclippy-reload ()
  "Try to load the model again."
  (interactive)
  (dolist (peer (or (codeclippy--peers) (user-error "Code Clippy: no server runs; see `codeclippy-restart'")))
    (jsonrpc-async-request peer :workspace/executeCommand (list :command "codeclippy.reloadModel" :arguments [])
                           :success-fn #'ignore :error-fn #'ignore)))

;;;###autoload
(defun codeclippy-figures ()
  "Say what became of suggestions: how many were shown, accepted and dismissed."
  (interactive)
  (dolist (peer (or (codeclippy--peers) (user-error "Code Clippy: no server runs; see `codeclippy-restart'")))
    (jsonrpc-async-request peer :workspace/executeCommand (list :command "codeclippy.showMetrics" :arguments [])
                           :success-fn #'ignore :error-fn #'ignore)))

(defun codeclippy-restart ()
  "Stop the server and start it again, with the settings as they are now."
  (interactive)
  (codeclippy--stop)
  (setq codeclippy--deaths nil
        codeclippy--failure nil)
  (codeclippy--connect))

(defun codeclippy-show-log ()
  "Show what the server has written to its log."
  (interactive)
  (let ((log (and codeclippy--connection (jsonrpc-stderr-buffer codeclippy--connection))))
    (if (buffer-live-p log)
        (display-buffer log)
      (codeclippy--say "%s" (or codeclippy--failure "there is no log yet")))))

;;;; The modes

(defun codeclippy-state ()
  "What our own server is doing: a symbol, and a sentence or nil.
The symbol is off, loading, ready, writing, failed or restarting."
  (let ((connection codeclippy--connection))
    (cond (codeclippy--failure (list 'failed codeclippy--failure))
          (codeclippy--restart-timer (list 'restarting "the server died and is started again"))
          ((not (and connection (jsonrpc-running-p connection))) (list 'off nil))
          ((codeclippy--tasks connection)
           (list 'writing (mapconcat #'cdr (codeclippy--tasks connection) ", ")))
          ((equal (codeclippy--connection-state connection) "failed")
           (list 'failed (codeclippy--connection-reason connection)))
          ((equal (codeclippy--connection-state connection) "ready") (list 'ready nil))
          (t (list 'loading "the model is being loaded")))))

(defun codeclippy--lighter ()
  "The mode line's text: the bare name where all is well."
  (pcase-let ((`(,state ,reason) (codeclippy-state)))
    (propertize (if (memq state '(ready off)) " Clippy" (format " Clippy:%s" state))
                'face (and (eq state 'failed) 'warning)
                'help-echo (if reason (format "Code Clippy: %s" reason) "Code Clippy"))))

(defun codeclippy--renamed ()
  "Open this buffer again under its new file name."
  (when codeclippy--opened
    (codeclippy--close)
    (when-let ((connection (codeclippy--ready)))
      (codeclippy--flush connection))))

;;;###autoload
(define-minor-mode codeclippy-mode
  "Show suggestions as ghost text while you type.
The server has a connection of its own, so that this works beside eglot.
While a suggestion is shown:

\\{codeclippy-completion-map}"
  :lighter (:eval (codeclippy--lighter))
  (let ((hooks '((post-command-hook . codeclippy--after-command)
                 (after-change-functions . codeclippy--note-change)
                 (window-selection-change-functions . codeclippy--left-window)
                 (after-set-visited-file-name-hook . codeclippy--renamed)
                 (change-major-mode-hook . codeclippy--close)
                 (kill-buffer-hook . codeclippy--close))))
    (if codeclippy-mode
        (progn
          (pcase-dolist (`(,hook . ,function) hooks)
            (add-hook hook function nil t))
          (add-to-list 'emulation-mode-map-alists 'codeclippy--keys)
          (add-hook 'kill-emacs-hook #'codeclippy--stop)
          (setq codeclippy--seen (buffer-chars-modified-tick))
          (when-let ((connection (codeclippy--ready)))
            (codeclippy--flush connection)))
      (pcase-dolist (`(,hook . ,function) hooks)
        (remove-hook hook function t))
      (codeclippy--hide)
      (codeclippy--close))))

(defun codeclippy--turn-on ()
  "Turn `codeclippy-mode' on in a buffer that it is for."
  (when (and (apply #'derived-mode-p codeclippy-modes)
             (not (minibufferp))
             (not buffer-read-only)
             (not (string-prefix-p " " (buffer-name))))
    (codeclippy-mode 1)))

;;;###autoload
(define-globalized-minor-mode global-codeclippy-mode codeclippy-mode codeclippy--turn-on
  :group 'codeclippy
  :package-version '(codeclippy . "0.1.0"))

;;;; Eglot

(defclass codeclippy-eglot-server (eglot-lsp-server codeclippy--peer)  ; in this order: eglot's is made by its parent
  ()
  "A codeclippy-ls that eglot manages.
Its edits are shown first like those of `codeclippy-mode'.")

;;;###autoload
(defun codeclippy-eglot-contact (&optional _interactive _project)
  "The contact of the server, a value for `eglot-server-programs'."
  (cons 'codeclippy-eglot-server codeclippy-command))

;; Last, so that modes that have a server keep it.
(add-to-list 'eglot-server-programs '(prog-mode . codeclippy-eglot-contact) t)

(cl-defmethod eglot-initialization-options ((_server codeclippy-eglot-server))
  "The user's settings."
  (codeclippy--options))

(cl-defmethod eglot-client-capabilities :around ((_server codeclippy-eglot-server))
  "What eglot can do; besides, edits are shown first, progress is cancelled."
  (let* ((capabilities (cl-call-next-method))
         (workspace (plist-get capabilities :workspace))
         (ours (codeclippy--capabilities))
         (edit (plist-get (plist-get ours :workspace) :workspaceEdit)))
    (setq workspace (plist-put (copy-sequence workspace) :workspaceEdit edit)
          capabilities (plist-put (copy-sequence capabilities) :workspace workspace))
    (plist-put capabilities :window (append (plist-get ours :window) (plist-get capabilities :window)))))

(cl-defmethod eglot-handle-request ((server codeclippy-eglot-server) (_method (eql 'workspace/applyEdit))
                                    &rest params)
  "Apply the edit in PARAMS from SERVER, or show it first."
  (codeclippy--apply server params))

(cl-defmethod eglot-handle-request ((server codeclippy-eglot-server) (_method (eql 'window/showDocument)) &rest params)
  "Keep the diff in PARAMS from SERVER for the question that follows."
  (codeclippy--show server params))

(cl-defmethod eglot-handle-request ((server codeclippy-eglot-server) (_method (eql 'window/showMessageRequest))
                                    &rest params)
  "Ask what PARAMS from SERVER ask, under the diff that was shown."
  (codeclippy--question server params))

(cl-defmethod eglot-handle-request ((_server codeclippy-eglot-server) (_method (eql 'window/workDoneProgress/create))
                                    &rest _params)
  "Say that progress is shown; eglot 1.9 knows none."
  nil)

(cl-defmethod eglot-handle-notification :before ((server codeclippy-eglot-server) (_method (eql '$/progress))
                                                 &key token value &allow-other-keys)
  "Note the progress VALUE of TOKEN from SERVER, so that it can be cancelled."
  (codeclippy--progress server token value))

(cl-defmethod codeclippy--encoding ((server codeclippy-eglot-server))
  "What eglot has agreed on with SERVER."
  (or (plist-get (eglot--capabilities server) :positionEncoding) "utf-16"))

(cl-defmethod codeclippy--flush ((_server codeclippy-eglot-server))
  "Send what has changed; eglot itself does not do so before a command."
  (eglot--signal-textDocument/didChange))

(cl-defmethod codeclippy--identifier ((_server codeclippy-eglot-server))
  "The uri and version that eglot has given the buffer."
  (append (eglot--TextDocumentIdentifier)
          ;; Renamed after the eglot of Emacs 30.
          (list :version (cl-loop for name in '(eglot--docver eglot--versioned-identifier)
                                  when (boundp name) return (symbol-value name)))))

(cl-defmethod codeclippy--buffer ((server codeclippy-eglot-server) uri)
  "The buffer that eglot manages with SERVER as URI."
  (cl-find-if (lambda (buffer)
                (with-current-buffer buffer
                  (equal uri (plist-get (eglot--TextDocumentIdentifier) :uri))))
              (eglot--managed-buffers server)))

(provide 'codeclippy)
;;; codeclippy.el ends here
