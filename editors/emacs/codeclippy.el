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
;; machine.  There are two ways to use it; the server alone knows models.
;;
;; 1. Ghost text.  `codeclippy-mode' (in all programming modes: `global-codeclippy-mode') shows a suggestion at point
;;    while you type, also in buffers that have another language server.  While a suggestion is shown, and only then:
;;
;;      TAB                  accept all of it        M-n, M-p   next, previous suggestion
;;      M-f, M-<right>       accept a word           C-g        hide it
;;      C-M-f, C-M-<right>   accept a line
;;
;;    M-n without one asks for suggestions: with more time, and for several.  If you type the start of a suggestion, it
;;    stays.  One server serves all buffers and projects.
;;
;; 2. Eglot: completion at point and code actions.  M-x codeclippy-eglot starts codeclippy-ls in the buffers of this
;;    project and mode.  Plain \\[eglot] does so in a programming mode that no other server is registered for; Python has
;;    others.  To prefer it there always:
;;
;;      (add-to-list 'eglot-server-programs '(python-mode . codeclippy-eglot-contact))
;;
;; In both, M-x codeclippy-edit edits the region, or the function around point, by a message ("rename x to count").  The
;; edit is shown as a diff first: y applies it, n discards it.  M-x codeclippy-cancel cancels an edit in progress.
;; M-x codeclippy-show-metrics shows how many suggestions were shown and accepted, M-x codeclippy-show-context what the
;; model sees of other files at point.
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
  "The connection of `codeclippy-mode', running or not; nil before the first.")

(defcustom codeclippy-settings nil
  "Settings of the server, a property list or an association list.
The names are the server's, as in (:completion (:maxTokens 64)
:edit (:confirm nil)); nil is false, and a list of strings is an array.
A change made with `setopt', `customize-set-variable' or the customize
interface is sent to the running server.  Settings below :model need
`codeclippy-restart'."
  :type 'sexp
  :initialize #'custom-initialize-default
  :set (lambda (symbol value)
         (set-default symbol value)
         (codeclippy--send-settings))
  :package-version '(codeclippy . "0.1.0"))

(defcustom codeclippy-idle-delay 0.15
  "Idle time in seconds before a suggestion is requested.
With nil only `codeclippy-complete' requests one."
  :type '(choice (const :tag "Only on request" nil) number)
  :package-version '(codeclippy . "0.1.0"))

(defcustom codeclippy-confirm-edits nil
  "Non-nil means show every edit as a diff before it is applied.
If nil, the server's setting edit.confirm decides, which is on by default."
  :type 'boolean
  :package-version '(codeclippy . "0.1.0"))

(defcustom codeclippy-presets '("Add a docstring" "Add type hints" "Fix the bug")
  "Messages that `codeclippy-edit' offers in addition to earlier ones."
  :type '(repeat string)
  :package-version '(codeclippy . "0.1.0"))

(defcustom codeclippy-modes '(prog-mode)
  "Major modes in which `global-codeclippy-mode' is on, with derived modes."
  :type '(repeat symbol)
  :package-version '(codeclippy . "0.1.0"))

(defcustom codeclippy-max-restarts 3
  "Maximum number of restarts within three minutes after the server crashes."
  :type 'natnum
  :package-version '(codeclippy . "0.1.0"))

(defcustom codeclippy-language-ids
  '(("c++" . "cpp") ("js" . "javascript") ("js-jsx" . "javascriptreact") ("sh" . "shellscript") ("bash" . "shellscript")
    ("tsx" . "typescriptreact") ("mhtml" . "html") ("cperl" . "perl") ("emacs-lisp" . "elisp"))
  "Language identifiers of LSP that differ from the name of the major mode."
  :type '(alist :key-type string :value-type string)
  :package-version '(codeclippy . "0.1.0"))

(defface codeclippy-ghost
  '((t :inherit shadow))
  "Suggested text that is not in the buffer."
  :package-version '(codeclippy . "0.1.0"))

(defface codeclippy-progress
  '((t :inherit (shadow italic)))
  "Text at the line of an edit that says how far it is."
  :package-version '(codeclippy . "0.1.0"))

;;;; Shared by both kinds of connection

(defclass codeclippy--peer ()
  ((tasks :initform nil :accessor codeclippy--tasks
          :documentation "Tasks that can be cancelled: an alist of progress tokens and titles.")
   (overlays :initform nil :accessor codeclippy--overlays
             :documentation "Overlays that say how far an edit is: an alist by progress token.")
   (diff :initform "" :accessor codeclippy--pending-diff
         :documentation "The diff for the server's next question."))
  "A connection to codeclippy-ls, our own or eglot's.
A handler of its requests may return a promise.")

(cl-defstruct (codeclippy--promise (:constructor codeclippy--promise))
  "The future result of a request of the server.
THEN is the function that sends it, once it is set; RESOLVED is non-nil
if VALUE is the result."
  then resolved value)

(defun codeclippy--resolve (promise value)
  "Resolve PROMISE with VALUE, unless it is resolved."
  (unless (codeclippy--promise-resolved promise)
    (setf (codeclippy--promise-resolved promise) t
          (codeclippy--promise-value promise) value)
    (when-let ((then (codeclippy--promise-then promise)))
      (funcall then value))))

(cl-defmethod jsonrpc-connection-send :around ((peer codeclippy--peer) &rest args)
  "Send ARGS to PEER; if the result is a promise, send it once resolved.
The dispatcher of jsonrpc must return a result at once, and a user who looks
at a diff takes time.  A result for a server that has exited is not sent."
  (let ((result (plist-get args :result)))
    (cond ((codeclippy--promise-p result)
           (let ((send (lambda (value)
                         (apply #'jsonrpc-connection-send peer (plist-put (copy-sequence args) :result value)))))
             (if (codeclippy--promise-resolved result)
                 (funcall send (codeclippy--promise-value result))
               (setf (codeclippy--promise-then result) send))))
          ((or (jsonrpc-running-p peer) (not (or (plist-member args :result) (plist-member args :error))))
           (cl-call-next-method)))))

(cl-defgeneric codeclippy--encoding (peer)
  "The position encoding of PEER: the string utf-16 or utf-32.")

(cl-defgeneric codeclippy--flush (peer)
  "Send PEER the current text of this buffer.")

(cl-defgeneric codeclippy--identifier (peer)
  "The uri and version of this buffer for PEER, a property list.")

(cl-defgeneric codeclippy--buffer (peer uri)
  "The buffer that is open in PEER as URI, or nil.")

(defun codeclippy--to-json (value)
  "Convert the settings VALUE to the form that jsonrpc needs.
Nil becomes false, and a list becomes an object or an array."
  (cond ((null value) :json-false)
        ((not (consp value)) value)
        ((keywordp (car value))
         (cl-loop for (key inner) on value by #'cddr append (list key (codeclippy--to-json inner))))
        ((consp (car value))
         (cl-loop for (key . inner) in value
                  append (list (intern (format ":%s" (string-remove-prefix ":" (format "%s" key))))
                               (codeclippy--to-json inner))))
        (t (vconcat (mapcar #'codeclippy--to-json value)))))

(defun codeclippy--options (&optional more)
  "The user's settings as an object, together with the property list MORE.
A folder's or a file's local variables are not used: they are not the user's."
  (let* ((settings (default-value 'codeclippy-settings))
         (object (append more (and settings (codeclippy--to-json settings)))))
    (or object (make-hash-table))))

(defun codeclippy--message (format &rest args)
  "Show a message to the user, made from FORMAT and ARGS."
  (message "Code Clippy: %s" (apply #'format-message format args)))

(defun codeclippy--handle-progress (peer token value)
  "Handle the progress VALUE of TOKEN from PEER."
  (pcase (plist-get value :kind)
    ("begin" (when (eq (plist-get value :cancellable) t)
               (push (cons token (plist-get value :title)) (codeclippy--tasks peer))
               (push (cons token (codeclippy--make-progress-overlay)) (codeclippy--overlays peer))))
    ("report" (when-let ((overlay (alist-get token (codeclippy--overlays peer) nil nil #'equal))
                         (text (plist-get value :message)))
                (overlay-put overlay 'after-string (propertize (concat "  " text) 'face 'codeclippy-progress))))
    ("end" (when-let ((overlay (alist-get token (codeclippy--overlays peer) nil t #'equal)))
             (delete-overlay overlay))
     (setf (codeclippy--tasks peer) (cl-remove token (codeclippy--tasks peer) :key #'car :test #'equal)
           (codeclippy--overlays peer) (cl-remove token (codeclippy--overlays peer) :key #'car :test #'equal))))
  (force-mode-line-update t))

(defun codeclippy--make-progress-overlay ()
  "Make an overlay at the end of the line of point in the selected window."
  (with-current-buffer (window-buffer (selected-window))
    (make-overlay (line-end-position) (line-end-position))))

(defun codeclippy--forget-tasks (peer)
  "Forget the tasks of PEER, which has exited."
  (mapc (lambda (entry) (delete-overlay (cdr entry))) (codeclippy--overlays peer))
  (setf (codeclippy--tasks peer) nil
        (codeclippy--overlays peer) nil))

;;;; Text and positions

(defconst codeclippy--line-end "\r\n\\|\r\\|\n"
  "Line endings in LSP; Emacs has only the last of them.")

(defun codeclippy--replace-unencodable (text)
  "Replace raw bytes and surrogates in TEXT, which cannot be sent, by U+FFFD."
  (replace-regexp-in-string "[\ud800-\udfff\x110000-\x3fffff]" "\ufffd" text t t))

(defun codeclippy--buffer-text (start end)
  "The text between START and END, without characters that cannot be sent."
  (codeclippy--replace-unencodable (buffer-substring-no-properties start end)))

(defun codeclippy--carriage-return-p ()
  "Return non-nil if there is a carriage return in the buffer.
LSP then counts more lines than Emacs does."
  (save-excursion
    (goto-char (point-min))
    (search-forward "\r" nil t)))

(defun codeclippy--count-units (text encoding)
  "Count the code units of TEXT in ENCODING."
  (+ (length text)
     (if (equal encoding "utf-32") 0 (cl-count-if (lambda (character) (> character #xffff)) text))))

(defun codeclippy--point-to-position (peer pos)
  "Convert POS in this buffer to an LSP position for PEER."
  (save-excursion
    (save-restriction
      (widen)
      (goto-char pos)
      (let ((line (1- (line-number-at-pos pos t)))
            (start (line-beginning-position)))
        (when (codeclippy--carriage-return-p)
          (goto-char (point-min))
          (setq line 0 start (point-min))
          (while (re-search-forward codeclippy--line-end pos t)
            (cl-incf line)
            (setq start (point))))
        (list :line line
              :character (codeclippy--count-units (codeclippy--buffer-text start pos) (codeclippy--encoding peer)))))))

(defun codeclippy--position-to-point (peer position)
  "Convert PEER's POSITION to a position in this buffer, which must be widened.
A line past the end becomes the end of the buffer, a column past the end of
its line becomes the end of the line."
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
             :documentation "The position encoding.")
   (state :initform "loading" :accessor codeclippy--connection-state
          :documentation "The state of the model, as the server reports it.")
   (reason :initform "" :accessor codeclippy--connection-reason
           :documentation "Why the model failed to load.")
   (initialized :initform nil :accessor codeclippy--initialized
                :documentation "Non-nil if the server has answered the initialize request.")
   (waiting :initform nil :accessor codeclippy--waiting
            :documentation "Functions to call once it is initialized, the newest first.")
   (stopping :initform nil :accessor codeclippy--stopping
             :documentation "Non-nil if the server was told to exit."))
  "The connection of `codeclippy-mode', one for all buffers.")

(cl-defmethod codeclippy--encoding ((connection codeclippy-connection))
  "The position encoding negotiated with CONNECTION."
  (codeclippy--connection-encoding connection))

(defvar codeclippy--buffers (make-hash-table :test #'equal)
  "The buffers that are open in the server, by uri.")

(defvar codeclippy--exit-times nil
  "Times of unexpected exits, the latest first; reset by `codeclippy-restart'.")

(defvar codeclippy--failure nil
  "Why there is no server, as a sentence, or nil.")

(defvar codeclippy--restart-timer nil
  "The timer that will start the server again, or nil.")

(defun codeclippy--capabilities ()
  "The capabilities of this client."
  (list :general (list :positionEncodings ["utf-32" "utf-16"])
        :window (list :workDoneProgress t :showDocument (list :support t))
        :workspace (list :applyEdit t
                         :configuration t
                         :workspaceEdit (list :documentChanges t
                                              :changeAnnotationSupport (list :groupsOnLabel :json-false)))
        :textDocument (list :synchronization (list :dynamicRegistration :json-false)
                            :inlineCompletion (list :dynamicRegistration :json-false))))

(defun codeclippy--make-process ()
  "Start the process of the server.
Not in the folder of the project, which may be somebody else's."
  (let ((default-directory (expand-file-name "~/")))
    (make-process :name "codeclippy" :command codeclippy-command :connection-type 'pipe :coding 'utf-8-emacs-unix
                  :noquery t :stderr (get-buffer-create "*codeclippy stderr*"))))

(defun codeclippy--connect ()
  "Start the server and send the initialize request."
  (setq codeclippy--restart-timer nil
        codeclippy--failure nil)
  (condition-case error
      (let ((connection
             (apply #'make-instance 'codeclippy-connection
                    :name "codeclippy"
                    :process #'codeclippy--make-process
                    :request-dispatcher #'codeclippy--handle-request
                    :notification-dispatcher #'codeclippy--handle-notification
                    :on-shutdown #'codeclippy--on-exit
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
               :initializationOptions (codeclippy--options '(:statusNotification t :separateSettings t :modelOffers t))
               :capabilities (codeclippy--capabilities))
         :success-fn (lambda (result)
                       (when (and (codeclippy--current-p connection) (jsonrpc-running-p connection))
                         (codeclippy--on-initialized connection result)))
         :error-fn (lambda (failure)
                     (when (codeclippy--current-p connection)
                       (codeclippy--set-failure (plist-get failure :message))))
         :timeout 120))
    (file-missing
     (codeclippy--set-failure
      (format "%s was not found; run pip install . in a clone of Code Clippy, or set codeclippy-command"
              (car codeclippy-command))))
    (error (codeclippy--set-failure (error-message-string error))))
  (force-mode-line-update t))

(defun codeclippy--current-p (connection)
  "Return non-nil if CONNECTION is in use, and not one that was stopped."
  (eq connection codeclippy--connection))

(defun codeclippy--set-failure (reason)
  "Record the REASON why there is no server, and show it once."
  (unless (equal reason codeclippy--failure)
    (setq codeclippy--failure reason)
    (codeclippy--message "%s" reason))
  (force-mode-line-update t))

(defun codeclippy--on-initialized (connection result)
  "Handle the RESULT of the initialize request of CONNECTION."
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

(defun codeclippy--ensure-connection ()
  "Return the connection; start it if there is none.
Return nil if that fails, or if a restart is scheduled."
  (cond ((and codeclippy--connection (jsonrpc-running-p codeclippy--connection)) codeclippy--connection)
        ((or codeclippy--restart-timer codeclippy--failure) nil)
        (t (codeclippy--connect)
           (and (null codeclippy--failure) codeclippy--connection))))

(defun codeclippy--ready-connection ()
  "Return the connection if it is initialized, else nil."
  (let ((connection (codeclippy--ensure-connection)))
    (and connection (codeclippy--initialized connection) connection)))

(defun codeclippy--on-exit (connection)
  "Schedule a restart of the server after the exit of CONNECTION.
Do nothing if the exit was requested; give up after too many."
  (unless (or (codeclippy--stopping connection) (not (codeclippy--current-p connection)))
    (clrhash codeclippy--buffers)
    (codeclippy--forget-tasks connection)
    (let ((now (float-time)))
      (setq codeclippy--exit-times
            (cons now (cl-remove-if (lambda (time) (> (- now time) 180)) codeclippy--exit-times)))
      (if (> (length codeclippy--exit-times) codeclippy-max-restarts)
          (codeclippy--set-failure
           "the server keeps crashing; see M-x codeclippy-show-log, then M-x codeclippy-restart")
        (setq codeclippy--restart-timer
              (run-at-time (expt 2 (1- (length codeclippy--exit-times))) nil #'codeclippy--connect))))
    (force-mode-line-update t)))

(defun codeclippy--stop-server ()
  "Request the shutdown of the server without waiting for it."
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

(defun codeclippy--handle-request (connection method params)
  "Handle the request METHOD with PARAMS from CONNECTION."
  (pcase method
    ('workspace/applyEdit (codeclippy--handle-apply-edit connection params))
    ('workspace/configuration
     (vconcat (mapcar (lambda (_item) (codeclippy--options)) (plist-get params :items))))
    ((or 'window/workDoneProgress/create 'client/registerCapability 'client/unregisterCapability) nil)
    ('window/showDocument (codeclippy--handle-show-document connection params))
    ('window/showMessageRequest (codeclippy--handle-message-request connection params))
    (_ (jsonrpc-error :code -32601 :message (format "no method %s" method)))))

(defun codeclippy--handle-notification (connection method params)
  "Handle the notification METHOD with PARAMS from CONNECTION."
  (pcase method
    ('codeclippy/status
     (let ((before (codeclippy--connection-state connection)))
       (setf (codeclippy--connection-state connection) (plist-get params :state)
             (codeclippy--connection-reason connection) (or (plist-get params :message) ""))
       (when (and (equal (plist-get params :state) "ready") (not (equal before "ready")))
         (codeclippy--retry))))
    ('codeclippy/suggestionReady (codeclippy--retry))
    ('codeclippy/modelOffer (codeclippy--show-offer params))
    ('$/progress (codeclippy--handle-progress connection (plist-get params :token) (plist-get params :value)))
    ('window/showMessage
     (codeclippy--message "%s" (string-remove-prefix "Code Clippy: " (plist-get params :message)))))
  (force-mode-line-update t))

(defun codeclippy--send-settings ()
  "Send the settings to the running server, except those that need a restart."
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
  "The uri under which the buffer is open.")

(defvar-local codeclippy--version 0
  "The version that was sent last.")

(defvar-local codeclippy--sent nil
  "The text that was sent last: modification tick, size and number of newlines.")

(defvar-local codeclippy--changed nil
  "The change since the text was sent, or nil.
A list of the number of unchanged characters before it, of those after it,
and of the growth of the text.")

(defun codeclippy--make-uri ()
  "Make the uri of this buffer; its scheme is untitled unless it is a local file."
  (if (and buffer-file-name (not (file-remote-p buffer-file-name)))
      (concat "file://" (if (eq system-type 'windows-nt) "/")
              (url-hexify-string (file-truename buffer-file-name)
                                 (url--allowed-chars (append '(?/) (if (eq system-type 'windows-nt) '(?:))
                                                             url-unreserved-chars))))
    (concat "untitled:" (url-hexify-string (or buffer-file-name (buffer-name))))))

(defun codeclippy--language ()
  "The language identifier of this buffer."
  (let ((name (replace-regexp-in-string "\\(?:-ts\\)?-mode\\'" "" (symbol-name major-mode))))
    (alist-get name codeclippy-language-ids name nil #'equal)))

(defun codeclippy--record-sent ()
  "Record that the server has the current text."
  (setq codeclippy--sent (list (buffer-chars-modified-tick) (buffer-size) (1- (line-number-at-pos (point-max) t)))
        codeclippy--changed nil))

(defun codeclippy--open-document (connection)
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
                                              :text (codeclippy--buffer-text (point-min) (point-max)))))
    (codeclippy--record-sent)))

(defun codeclippy--close-document ()
  "Close this buffer in the server."
  (when (and codeclippy--opened (eq codeclippy--opened codeclippy--connection) (jsonrpc-running-p codeclippy--opened))
    (jsonrpc-notify codeclippy--opened :textDocument/didClose (list :textDocument (list :uri codeclippy--uri))))
  (when codeclippy--uri
    (remhash codeclippy--uri codeclippy--buffers))
  (setq codeclippy--opened nil))

(defun codeclippy--record-change (start end length)
  "Record that LENGTH characters were replaced by those from START to END."
  (save-restriction
    (widen)
    (pcase-let ((`(,before ,after ,growth) (or codeclippy--changed (list (buffer-size) (buffer-size) 0))))
      (setq codeclippy--changed (list (min before (- start (point-min)))
                                      (min after (- (point-max) end))
                                      (+ growth (- end start length)))))))

(defun codeclippy--make-change ()
  "Make the change from the sent text to the current one, an LSP content change.
It replaces whole lines: columns could not be computed without the old text.
If the changed lines are not known, it replaces the whole text."
  (pcase-let ((`(,_ ,size ,breaks) codeclippy--sent)
              (`(,before ,after ,growth) codeclippy--changed))
    (if (or (null codeclippy--changed)  ; changed by something that runs no hooks
            (/= (+ size growth) (buffer-size))
            (codeclippy--carriage-return-p))
        (list :text (codeclippy--buffer-text (point-min) (point-max)))
      (save-excursion
        (let* ((start (progn (goto-char (+ (point-min) before)) (line-beginning-position)))
               ;; The start of a line after a newline that has not changed.
               (end (progn (goto-char (max (point) (- (point-max) after))) (line-beginning-position 2)))
               (first (1- (line-number-at-pos start t)))
               (last (if (= end (point-max))
                         (1+ breaks)  ; past the last line: the end of the text
                       (- breaks (- (line-number-at-pos (point-max) t) (line-number-at-pos end t))))))
          (list :range (list :start (list :line first :character 0) :end (list :line last :character 0))
                :text (codeclippy--buffer-text start end)))))))

(cl-defmethod codeclippy--flush ((connection codeclippy-connection))
  "Send CONNECTION the current text of this buffer."
  (save-restriction
    (widen)
    (cond ((or (not (eq codeclippy--opened connection))
               (not (eq (gethash codeclippy--uri codeclippy--buffers) (current-buffer))))
           (codeclippy--open-document connection))
          ((/= (buffer-chars-modified-tick) (car codeclippy--sent))
           (let ((change (codeclippy--make-change)))
             (cl-incf codeclippy--version)
             (jsonrpc-notify connection :textDocument/didChange
                             (list :textDocument (list :uri codeclippy--uri :version codeclippy--version)
                                   :contentChanges (vector change))))
           (codeclippy--record-sent)))))

(cl-defmethod codeclippy--identifier ((_connection codeclippy-connection))
  "The buffer's uri and version."
  (list :uri codeclippy--uri :version codeclippy--version))

(cl-defmethod codeclippy--buffer ((_connection codeclippy-connection) uri)
  "The buffer that is open as URI."
  (gethash uri codeclippy--buffers))

;;;; Ghost text

(defvar-local codeclippy--overlay nil
  "The overlay that shows the suggestion.")

(defvar-local codeclippy--visible nil
  "Non-nil if a suggestion is shown; its keys are bound only then.")

(defvar-local codeclippy--items nil
  "The suggestions: a list of (TEXT COMMAND REPLACED).
REPLACED characters after point are replaced.")

(defvar-local codeclippy--index 0
  "The index of the shown suggestion.")

(defvar-local codeclippy--start nil
  "The start of the suggestions; the user may have typed from here to point.")

(defvar-local codeclippy--line-suffix nil
  "The text of the line after the suggestion, which must not change.")

(defvar-local codeclippy--last-request nil
  "The modification tick and point of the last automatic request.")

(defvar-local codeclippy--last-tick nil
  "The `buffer-chars-modified-tick' after the last command.")

(defvar codeclippy--timer nil
  "The timer of the next automatic request.")

(defconst codeclippy--rest 0.3
  "Seconds without a movement after which the server is told where point is.")

(defvar-local codeclippy--last-line nil
  "The start of the line that the server was told last.")

(defvar codeclippy--rest-timer nil
  "The timer of the next message about where point is.")

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

(defvar codeclippy--keys (list (cons 'codeclippy--visible codeclippy-completion-map))
  "The keys for `emulation-mode-map-alists', which precede those of minor modes.")

(defun codeclippy--hide ()
  "Hide the suggestion and drop all of them."
  (when codeclippy--overlay
    (delete-overlay codeclippy--overlay))
  (setq codeclippy--overlay nil
        codeclippy--visible nil
        codeclippy--items nil))

(defun codeclippy--remaining-text ()
  "Return the rest of the suggestion after the text that has been typed.
Return nil if point or the text no longer match it."
  (when codeclippy--items
    (let* ((text (car (nth codeclippy--index codeclippy--items)))
           (typed (- (point) codeclippy--start)))
      (and (<= 0 typed) (< typed (length text))
           (equal (buffer-substring-no-properties codeclippy--start (point)) (substring text 0 typed))
           (equal (buffer-substring-no-properties (point) (line-end-position)) codeclippy--line-suffix)
           (substring text typed)))))

(defun codeclippy--draw ()
  "Draw the rest of the suggestion at point, or hide it."
  (let ((left (codeclippy--remaining-text)))
    (if (null left)
        (codeclippy--hide)
      (unless codeclippy--overlay
        (setq codeclippy--overlay (make-overlay (point) (point)))
        (overlay-put codeclippy--overlay 'priority 100)
        (overlay-put codeclippy--overlay 'window (selected-window)))
      (move-overlay codeclippy--overlay (point) (point))
      (let ((text (propertize (codeclippy--displayable left) 'face 'codeclippy-ghost)))
        (put-text-property 0 1 'cursor t text)  ; the cursor stays before it
        (overlay-put codeclippy--overlay 'after-string text))
      (setq codeclippy--visible t))))

(defun codeclippy--displayable (text)
  "Return TEXT in the form that is drawn.
The cursor needs a character before a newline."
  (if (string-prefix-p "\n" text) (concat " " text) text))

(defun codeclippy--parse-item (connection item)
  "Parse the server's ITEM from CONNECTION; return (TEXT COMMAND REPLACED).
REPLACED is the number of characters after point that it replaces: closing
brackets that it contains.  Return nil if the item is not for point."
  (let* ((text (plist-get item :insertText))
         (text (if (stringp text) text (plist-get text :value)))
         (range (plist-get item :range))
         (start (if range (codeclippy--position-to-point connection (plist-get range :start)) (point)))
         (end (if range (codeclippy--position-to-point connection (plist-get range :end)) (point)))
         (typed (and (<= start (point)) (buffer-substring-no-properties start (point)))))
    (when (and typed (stringp text) (<= (point) end (line-end-position))
               (string-prefix-p typed text) (< (length typed) (length text)))
      (list (substring text (length typed)) (plist-get item :command) (- end (point))))))

(defun codeclippy--show-items (connection result)
  "Show the first suggestion in the RESULT of a request to CONNECTION."
  (let* ((items (if (vectorp result) result (plist-get result :items)))
         (found (save-restriction
                  (widen)
                  (delq nil (mapcar (lambda (item) (codeclippy--parse-item connection item)) items)))))
    (when found
      (codeclippy--hide)
      (setq codeclippy--items found
            codeclippy--index 0
            codeclippy--start (point)
            codeclippy--line-suffix (buffer-substring-no-properties (point) (line-end-position)))
      (codeclippy--draw))))

(defun codeclippy--request-suggestions (invoked &optional then)
  "Request suggestions at point; INVOKED means that the user asks for them.
The answer is dropped if the text or point have changed.  THEN is called
with the number of suggestions."
  (when-let ((connection (codeclippy--ready-connection)))
    (codeclippy--flush connection)
    (let ((buffer (current-buffer)) (place (point)) (tick (buffer-chars-modified-tick)))
      (jsonrpc-async-request
       connection :textDocument/inlineCompletion
       (list :textDocument (list :uri codeclippy--uri)
             :position (codeclippy--point-to-position connection place)
             :context (list :triggerKind (if invoked 1 2)))
       :success-fn
       (lambda (result)
         (when (and (buffer-live-p buffer) (eq buffer (window-buffer (selected-window))))
           (with-current-buffer buffer
             (when (and (= place (point)) (= tick (buffer-chars-modified-tick)) (bound-and-true-p codeclippy-mode))
               (codeclippy--show-items connection result)
               (when then
                 (funcall then (length codeclippy--items)))))))
       :error-fn #'ignore :timeout-fn #'ignore :timeout 60))))

(defun codeclippy--suppressed-p ()
  "Return non-nil if no suggestion should be shown now.
Another list is open, or the user cannot type here."
  (or buffer-read-only
      (region-active-p)
      (bound-and-true-p completion-in-region-mode)
      (bound-and-true-p company-candidates)))

(defun codeclippy--request-if-idle (buffer)
  "Request a suggestion in BUFFER, if it is still selected."
  (setq codeclippy--timer nil)
  (when (and (buffer-live-p buffer) (eq buffer (window-buffer (selected-window))))
    (with-current-buffer buffer
      (when (and (bound-and-true-p codeclippy-mode) (not codeclippy--visible) (not (codeclippy--suppressed-p)))
        (setq codeclippy--last-request (cons (buffer-chars-modified-tick) (point)))
        (codeclippy--request-suggestions nil)))))

(defun codeclippy--retry ()
  "Repeat the last request, if the text and point are still the same.
It had no suggestions, as the model was not ready or the time was up."
  (with-current-buffer (window-buffer (selected-window))
    (when (equal codeclippy--last-request (cons (buffer-chars-modified-tick) (point)))
      (codeclippy--request-if-idle (current-buffer)))))

(defun codeclippy--post-command ()
  "Keep, move or hide the suggestion; request one after a change of the text."
  (let ((changed (not (eql codeclippy--last-tick (buffer-chars-modified-tick)))))
    (setq codeclippy--last-tick (buffer-chars-modified-tick))
    (unless changed
      (codeclippy--watch-rest))
    (when codeclippy--visible
      (if (codeclippy--suppressed-p) (codeclippy--hide) (codeclippy--draw)))
    (when (and changed codeclippy-idle-delay)
      (when (timerp codeclippy--timer)
        (cancel-timer codeclippy--timer))
      (setq codeclippy--timer
            (unless codeclippy--visible
              (run-with-timer codeclippy-idle-delay nil #'codeclippy--request-if-idle (current-buffer)))))))

(defun codeclippy--watch-rest ()
  "Tell the server where point rests, once for each line.
The model reads the text around it, so that the first key there is fast."
  (unless (eql codeclippy--last-line (line-beginning-position))
    (when (timerp codeclippy--rest-timer)
      (cancel-timer codeclippy--rest-timer))
    (setq codeclippy--rest-timer
          (run-with-timer codeclippy--rest nil #'codeclippy--send-point (current-buffer)))))

(defun codeclippy--send-point (buffer)
  "Tell the server where point is in BUFFER, if it is still selected."
  (setq codeclippy--rest-timer nil)
  (when (and (buffer-live-p buffer) (eq buffer (window-buffer (selected-window))))
    (with-current-buffer buffer
      (when-let ((connection (and (bound-and-true-p codeclippy-mode) (codeclippy--ready-connection))))
        (codeclippy--flush connection)
        (setq codeclippy--last-line (line-beginning-position))
        (jsonrpc-notify connection :codeclippy/cursor
                        (list :textDocument (list :uri codeclippy--uri)
                              :position (codeclippy--point-to-position connection (point))))))))

(defun codeclippy--on-window-change (window)
  "Hide the suggestion in WINDOW unless it is the selected window."
  (unless (eq window (selected-window))
    (with-current-buffer (window-buffer window)
      (when (and codeclippy--overlay (eq window (overlay-get codeclippy--overlay 'window)))
        (codeclippy--hide)))))

(defun codeclippy--accept-part (pattern)
  "Insert the part of the suggestion that PATTERN matches, or all if it is nil.
This is one undo step."
  (let ((left (codeclippy--remaining-text))
        (command (nth 1 (nth codeclippy--index codeclippy--items)))
        (replaced (nth 2 (nth codeclippy--index codeclippy--items))))
    (unless left
      (user-error "There is no suggestion"))
    (let ((piece (if (and pattern (string-match pattern left)) (match-string 0 left) left))
          (rest codeclippy--line-suffix))
      (undo-boundary)
      (when (equal piece left)
        (delete-region (point) (+ (point) replaced)))
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
        (setq codeclippy--line-suffix rest)
        (codeclippy--draw)))))

(defun codeclippy-accept ()
  "Insert the suggestion."
  (interactive)
  (codeclippy--accept-part nil))

(defun codeclippy-accept-word ()
  "Insert the next word of the suggestion, or its next run of other characters."
  (interactive)
  (codeclippy--accept-part "\\`[[:space:]\n]*\\(?:\\(?:\\w\\|_\\)+\\|\\(?:[^[:word:]_[:space:]\n]\\)+\\)"))

(defun codeclippy-accept-line ()
  "Insert the suggestion up to the end of the line."
  (interactive)
  (codeclippy--accept-part "\\`\n?[^\n]*"))

(defun codeclippy-dismiss ()
  "Hide the suggestion."
  (interactive)
  (codeclippy--hide))

(defun codeclippy--cycle (step)
  "Show the suggestion STEP further; request more if there is only one."
  (if (cdr codeclippy--items)
      (progn
        (setq codeclippy--index (mod (+ codeclippy--index step) (length codeclippy--items)))
        (codeclippy--draw))
    (codeclippy--request-suggestions t (lambda (count)
                                         (if (< count 2)
                                             (codeclippy--message "there is no other suggestion")
                                           (setq codeclippy--index (mod step count))
                                           (codeclippy--draw))))))

(defun codeclippy-next ()
  "Show the next suggestion."
  (interactive)
  (codeclippy--cycle 1))

(defun codeclippy-previous ()
  "Show the previous suggestion."
  (interactive)
  (codeclippy--cycle -1))

(defun codeclippy-complete ()
  "Request a suggestion at point."
  (interactive)
  (unless (bound-and-true-p codeclippy-mode)
    (codeclippy-mode 1))
  (unless (codeclippy--request-suggestions t (lambda (count)
                                               (when (zerop count)
                                                 (codeclippy--message "there is no suggestion here"))))
    (codeclippy--message "%s" (or codeclippy--failure "the server is starting"))))

;;;; Applying edits

(defun codeclippy--make-replacements (peer edits)
  "Convert EDITS from PEER to a sorted list of (START END TEXT).
The buffer must be widened."
  (sort (mapcar (lambda (edit)
                  (let ((range (plist-get edit :range)))
                    (list (codeclippy--position-to-point peer (plist-get range :start))
                          (codeclippy--position-to-point peer (plist-get range :end))
                          (plist-get edit :newText))))
                edits)
        (lambda (one other) (< (car one) (car other)))))

(defun codeclippy--apply-replacements (replacements)
  "Apply REPLACEMENTS to this buffer as one undo step.
Point and markers stay at their text."
  (undo-boundary)
  (atomic-change-group
    (let ((group (prepare-change-group)))
      (pcase-dolist (`(,start ,end ,text) (reverse replacements))
        (save-excursion
          (replace-region-contents start end (lambda () text) 0.5)))
      (undo-amalgamate-change-group group)))
  (undo-boundary))

(defun codeclippy--find-target (peer change)
  "Find the buffer of CHANGE from PEER.
Return a string, the reason, if the change cannot be applied."
  (let* ((document (plist-get change :textDocument))
         (buffer (codeclippy--buffer peer (plist-get document :uri)))
         (version (plist-get document :version)))
    (if (not (buffer-live-p buffer))
        "the document is not open"
      (with-current-buffer buffer
        (codeclippy--flush peer)
        (cond ((and version (/= version (plist-get (codeclippy--identifier peer) :version)))
               "the document has changed")
              (buffer-read-only "the buffer is read-only")
              (t buffer))))))

(defun codeclippy--make-refusal (reason)
  "Make the answer that an edit was not applied, for REASON."
  (list :applied :json-false :failureReason reason))

(defun codeclippy--apply-now (peer change)
  "Apply CHANGE from PEER; return the answer to the server."
  (let ((buffer (codeclippy--find-target peer change)))
    (if (stringp buffer)
        (codeclippy--make-refusal buffer)
      (with-current-buffer buffer
        (codeclippy--hide)
        (save-restriction
          (widen)
          (codeclippy--apply-replacements (codeclippy--make-replacements peer (plist-get change :edits)))))
      (list :applied t))))

(defun codeclippy--handle-apply-edit (peer params)
  "Apply the edit in PARAMS from PEER, or show it first.
Return the answer, or a promise of it."
  (let* ((edit (plist-get params :edit))
         (changes (plist-get edit :documentChanges))
         (annotations (cl-loop for (_ annotation) on (plist-get edit :changeAnnotations) by #'cddr
                               collect annotation)))
    (cond ((or (/= (length changes) 1) (null (plist-get (aref changes 0) :edits)))
           (codeclippy--make-refusal "only edits of a single document are supported"))
          ((not (or codeclippy-confirm-edits
                    (cl-some (lambda (annotation) (eq (plist-get annotation :needsConfirmation) t)) annotations)))
           (codeclippy--apply-now peer (aref changes 0)))
          (t
           (let ((promise (codeclippy--promise)))
             (codeclippy--run-when-idle
              (lambda () (codeclippy--preview-edit peer (aref changes 0) (plist-get params :label) promise)))
             promise)))))

;;;; The preview

(defun codeclippy--split-lines (text)
  "Split TEXT into lines, without a last line that is empty."
  (let ((lines (split-string text "\n")))
    (if (equal (car (last lines)) "") (butlast lines) lines)))

(defun codeclippy--make-blocks (replacements)
  "Convert REPLACEMENTS to a list of (LINE OLD NEW), without overlap.
Each changes whole lines, starting at LINE, from OLD to NEW."
  (let (blocks)
    (while replacements
      ;; Replacements that touch the same lines become one block.
      (let* ((start (save-excursion (goto-char (caar replacements)) (line-beginning-position)))
             (place start)
             (end start)
             (new ""))
        (while (and replacements (or (= place start) (< (caar replacements) end)))
          (pcase-let ((`(,from ,to ,text) (pop replacements)))
            (setq new (concat new (buffer-substring-no-properties place from) text)
                  place to
                  end (save-excursion
                        (goto-char to)
                        (if (and (bolp) (> to start) (or (string-suffix-p "\n" new) (string-empty-p new)))
                            to
                          (min (point-max) (line-beginning-position 2)))))))
        (setq new (concat new (buffer-substring-no-properties place end)))
        (push (codeclippy--trim-block (1- (line-number-at-pos start t))
                                      (codeclippy--split-lines (buffer-substring-no-properties start end))
                                      (codeclippy--split-lines new))
              blocks)))
    (nreverse blocks)))

(defun codeclippy--trim-block (line old new)
  "Return the block (LINE OLD NEW) without common first and last lines."
  (while (and old new (equal (car old) (car new)))
    (cl-incf line)
    (pop old)
    (pop new))
  (let ((old (reverse old)) (new (reverse new)))
    (while (and old new (equal (car old) (car new)))
      (pop old)
      (pop new))
    (list line (nreverse old) (nreverse new))))

(defun codeclippy--make-diff (replacements)
  "Make a unified diff of the REPLACEMENTS in this buffer."
  (let ((lines (vconcat (codeclippy--split-lines (buffer-substring-no-properties (point-min) (point-max)))))
        (blocks (codeclippy--make-blocks replacements))
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
  "Function to call with the user's answer in the preview: t, nil or `next'.")

(defvar-local codeclippy--has-next-p nil
  "Non-nil if the preview is one of several.")

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
  "A proposed edit: y applies it, n discards it."
  ;; Otherwise the keys of a read-only diff have priority: n is the next hunk.
  (setq-local minor-mode-overriding-map-alist nil)
  (setq-local revert-buffer-function nil)
  (setq header-line-format " y apply   n discard")
  (setq buffer-read-only t)
  (add-hook 'kill-buffer-hook #'codeclippy--on-preview-killed nil t))

(defun codeclippy--on-preview-killed ()
  "Discard the edit when its preview is killed."
  (when codeclippy--answer-function
    (funcall (prog1 codeclippy--answer-function (setq codeclippy--answer-function nil)) nil)))

(defun codeclippy--answer-preview (choice)
  "Close the preview and answer with CHOICE: t, nil or `next'."
  (let ((answer (prog1 codeclippy--answer-function (setq codeclippy--answer-function nil))))
    (quit-window t)
    (when answer
      (funcall answer choice))))

(defun codeclippy-preview-apply ()
  "Apply the edit that is shown."
  (interactive nil codeclippy-preview-mode)
  (codeclippy--answer-preview t))

(defun codeclippy-preview-discard ()
  "Discard the edit that is shown."
  (interactive nil codeclippy-preview-mode)
  (codeclippy--answer-preview nil))

(defun codeclippy-preview-next ()
  "Show the next candidate."
  (interactive nil codeclippy-preview-mode)
  (unless codeclippy--has-next-p
    (user-error "There is no other candidate"))
  (codeclippy--answer-preview 'next))

(defun codeclippy--show-preview (text answer &optional next)
  "Show the diff TEXT; call ANSWER with the user's choice.
That is t, nil, or `next' if there is a NEXT candidate."
  (with-current-buffer (generate-new-buffer "*codeclippy edit*")
    (insert text)
    (goto-char (point-min))
    (codeclippy-preview-mode)
    (setq codeclippy--answer-function answer)
    (when next
      (setq codeclippy--has-next-p t
            header-line-format " y apply   M-n next   n discard"))
    (pop-to-buffer (current-buffer))))

(defun codeclippy--run-when-idle (function)
  "Call FUNCTION soon, but not while the minibuffer is active."
  ;; Not in the process filter, which must return.
  (run-at-time (if (> (minibuffer-depth) 0) 0.3 0) nil
               (lambda ()
                 (if (> (minibuffer-depth) 0) (codeclippy--run-when-idle function) (funcall function)))))

(defun codeclippy--preview-edit (peer change label promise)
  "Show CHANGE from PEER under LABEL; the user's answer resolves PROMISE."
  (let ((target (codeclippy--find-target peer change)))
    (if (stringp target)
        (codeclippy--resolve promise (codeclippy--make-refusal target))
      (let ((text (with-current-buffer target
                    (codeclippy--hide)
                    (save-restriction
                      (widen)
                      (codeclippy--make-diff (codeclippy--make-replacements peer (plist-get change :edits))))))
            (name (buffer-name target)))
        (codeclippy--show-preview (format "--- %s\n+++ %s  (%s)\n%s\n" name name (or label "edit") text)
                                  (lambda (yes)
                                    (codeclippy--resolve promise (if yes
                                                                     (codeclippy--apply-now peer change)
                                                                   (codeclippy--make-refusal "discarded")))))))))

;;;; The server's question about an edit (setting edit.showDiff)

(defun codeclippy--handle-show-document (peer params)
  "Store the diff in PARAMS from PEER for the question that follows."
  (let ((file (decode-coding-string
               (url-unhex-string (string-remove-prefix "file://" (plist-get params :uri))) 'utf-8)))
    (setf (codeclippy--pending-diff peer)
          (with-temp-buffer
            (let ((coding-system-for-read 'utf-8))
              (insert-file-contents (if (eq system-type 'windows-nt) (string-remove-prefix "/" file) file)))
            (buffer-string)))
    (list :success t)))

(defun codeclippy--handle-message-request (peer params)
  "Ask the user the question in PARAMS from PEER; return a promise of the answer."
  (if (codeclippy--pending-diff peer)
      (codeclippy--ask-about-diff peer params)
    (let ((promise (codeclippy--promise)))
      (codeclippy--run-when-idle
       (lambda () (codeclippy--resolve promise (codeclippy--ask params))))
      promise)))

(defun codeclippy--ask (params)
  "Ask the question in PARAMS in the minibuffer; return the chosen action or nil."
  (let* ((actions (append (plist-get params :actions) nil))
         (titles (mapcar (lambda (action) (plist-get action :title)) actions))
         (answer (condition-case nil
                     (completing-read (concat (plist-get params :message) " ") titles nil t)
                   (quit nil))))
    (cl-find answer actions :key (lambda (action) (plist-get action :title)) :test #'equal)))

(defun codeclippy--ask-about-diff (peer params)
  "Ask the user the question in PARAMS from PEER, and show the stored diff.
Return a promise of the answer.  The first action applies the edit, the
last one discards it; if there is one in between, it is the next candidate."
  (let* ((promise (codeclippy--promise))
         (actions (append (plist-get params :actions) nil))
         (text (codeclippy--pending-diff peer)))
    (setf (codeclippy--pending-diff peer) nil)
    (codeclippy--run-when-idle
     (lambda ()
       (codeclippy--show-preview
        text
        (lambda (choice)
          (codeclippy--resolve promise (pcase choice ('next (nth 1 actions)) ('nil nil) (_ (car actions)))))
        (cddr actions))
       (message "%s" (plist-get params :message))))
    promise))

;;;; Edits by message

(defvar codeclippy-edit-history nil
  "Earlier messages of `codeclippy-edit', the latest first.")

(defun codeclippy--read-message ()
  "Read a message, with earlier ones as history and presets as completions."
  (minibuffer-with-setup-hook
      (lambda ()
        (let ((map (make-sparse-keymap)))
          (set-keymap-parent map (current-local-map))
          (define-key map " " #'self-insert-command)  ; a message has spaces and question marks
          (define-key map "?" #'self-insert-command)
          (use-local-map map)))
    (completing-read "Edit: what should change? " codeclippy-presets nil nil nil 'codeclippy-edit-history)))

(defun codeclippy--current-peer ()
  "Return the connection of this buffer: the mode's own, or eglot's.
If there is neither, turn the mode on."
  (let ((server (and (not (bound-and-true-p codeclippy-mode)) (eglot-current-server))))
    (if (cl-typep server 'codeclippy--peer)
        server
      (unless (bound-and-true-p codeclippy-mode)
        (codeclippy-mode 1))
      (or (codeclippy--ensure-connection)
          (user-error "Code Clippy: %s" (or codeclippy--failure "the server is restarting"))))))

(defun codeclippy--call-when-ready (peer then)
  "Call THEN now, or once PEER is initialized."
  (if (or (not (cl-typep peer 'codeclippy-connection)) (codeclippy--initialized peer))
      (funcall then)
    (push then (codeclippy--waiting peer))))

;;;###autoload
(defun codeclippy-edit (message &optional start end)
  "Edit the region, or the function around point, by MESSAGE.
From Lisp, START and END are those of the region.  An empty message means
the one in a comment there, as in \"# clippy: add a docstring\".  The edit
is shown first, unless the settings say otherwise; `codeclippy-cancel'
cancels it while it is generated."
  (interactive (let ((message (codeclippy--read-message)))
                 (if (use-region-p)
                     (list message (region-beginning) (region-end))
                   (list message))))
  (barf-if-buffer-read-only)
  (let* ((peer (codeclippy--current-peer))
         (buffer (current-buffer))
         (from (copy-marker (or start (point))))
         (to (copy-marker (or end start (point)))))
    (deactivate-mark)
    (codeclippy--call-when-ready
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
                                                   :range (list :start (codeclippy--point-to-position peer from)
                                                                :end (codeclippy--point-to-position peer to))))))
            :success-fn #'ignore
            :error-fn (lambda (failure) (codeclippy--message "no edit: %s" (plist-get failure :message))))))))))

(defun codeclippy--live-peers ()
  "List the running connections to codeclippy-ls."
  (cl-remove-if-not (lambda (peer) (and (cl-typep peer 'codeclippy--peer) (jsonrpc-running-p peer)))
                    (list codeclippy--connection (eglot-current-server))))

(defun codeclippy-cancel ()
  "Cancel the edits in progress."
  (interactive)
  (let ((count 0))
    (dolist (peer (codeclippy--live-peers))
      (pcase-dolist (`(,token . ,_) (codeclippy--tasks peer))
        (cl-incf count)
        (jsonrpc-notify peer :window/workDoneProgress/cancel (list :token token))))
    (codeclippy--message (if (zerop count) "no edit is in progress" "cancelled"))))

(defun codeclippy--execute-command (command)
  "Execute COMMAND of the server, without arguments, in each connection."
  (dolist (peer (or (codeclippy--live-peers)
                    (user-error "Code Clippy: no server is running; see `codeclippy-restart'")))
    (jsonrpc-async-request peer :workspace/executeCommand (list :command command :arguments [])
                           :success-fn #'ignore :error-fn #'ignore)))

(defun codeclippy-reload-model ()
  "Load the model again, after a failure."
  (interactive)
  (codeclippy--execute-command "codeclippy.reloadModel"))

;;;; The model

(defun codeclippy--show-offer (offer)
  "Show the server's OFFER of a better model."
  (codeclippy--message "%s.  To use it: M-x codeclippy-choose-model" (plist-get offer :message)))

(defun codeclippy--format-model (model)
  "Return the line of MODEL in the list."
  (let ((name (plist-get model :name)))
    (format "%s%s: %s"
            (if (eq (plist-get model :installed) t) "" "download ")
            (if (file-name-absolute-p name) (abbreviate-file-name name) name)
            (plist-get model :description))))

(defun codeclippy--pick-model (list)
  "Ask for a model of LIST, the server's answer; return it or nil."
  (let* ((models (cl-remove-if-not (lambda (model) (equal (plist-get model :problem) ""))
                                   (append (plist-get list :models) nil)))
         (rows (append (mapcar (lambda (model) (cons (codeclippy--format-model model) model)) models)
                       '(("the shipped model: small, offline, knows Python" :name "" :installed t))))
         ;; In the server's order: the best ones are in front.
         (table (lambda (string predicate action)
                  (if (eq action 'metadata)
                      '(metadata (display-sort-function . identity) (cycle-sort-function . identity))
                    (complete-with-action action rows string predicate)))))
    (cdr (assoc (completing-read "The model of all your editors: " table nil t) rows))))

;;;###autoload
(defun codeclippy-choose-model (edits-only)
  "Choose the model from those on this machine and those that can be downloaded.
All your editors use it.  With a prefix argument, EDITS-ONLY, it writes
the edits only, and the model for suggestions stays."
  (interactive "P")
  (let ((peer (codeclippy--current-peer)))
    (codeclippy--call-when-ready
     peer
     (lambda ()
       (jsonrpc-async-request
        peer :workspace/executeCommand (list :command "codeclippy.listModels" :arguments [])
        :success-fn (lambda (list)
                      (codeclippy--run-when-idle
                       (lambda () (codeclippy--use-model peer (codeclippy--pick-model list) edits-only))))
        :error-fn (lambda (failure) (codeclippy--message "no list of models: %s" (plist-get failure :message))))))))

(defun codeclippy--use-model (peer model edits-only)
  "Let PEER use MODEL, or download it first; only for edits if EDITS-ONLY."
  (jsonrpc-async-request
   peer :workspace/executeCommand
   (list :command (if (eq (plist-get model :installed) t) "codeclippy.useModel" "codeclippy.getModel")
         :arguments (vector (list :name (plist-get model :name) :role (if edits-only "edit" "complete"))))
   :success-fn #'ignore
   :error-fn (lambda (failure) (codeclippy--message "%s" (plist-get failure :message)))))

;;;###autoload
(defun codeclippy-show-context ()
  "Show what the model sees of other files at point, and why."
  (interactive)
  (codeclippy--execute-command "codeclippy.showContext"))

;;;###autoload
(defun codeclippy-show-metrics ()
  "Show how many suggestions were shown, accepted and dismissed."
  (interactive)
  (codeclippy--execute-command "codeclippy.showMetrics"))

(defun codeclippy-restart ()
  "Restart the server with the current settings."
  (interactive)
  (codeclippy--stop-server)
  (setq codeclippy--exit-times nil
        codeclippy--failure nil)
  (codeclippy--connect))

(defun codeclippy-show-log ()
  "Show the log of the server."
  (interactive)
  (let ((log (and codeclippy--connection (jsonrpc-stderr-buffer codeclippy--connection))))
    (if (buffer-live-p log)
        (display-buffer log)
      (codeclippy--message "%s" (or codeclippy--failure "there is no log yet")))))

;;;; The modes

(defun codeclippy-state ()
  "The state of our own server: a symbol, and a sentence or nil.
The symbol is off, loading, ready, editing, failed or restarting."
  (let ((connection codeclippy--connection))
    (cond (codeclippy--failure (list 'failed codeclippy--failure))
          (codeclippy--restart-timer (list 'restarting "the server crashed and is restarting"))
          ((not (and connection (jsonrpc-running-p connection))) (list 'off nil))
          ((codeclippy--tasks connection)
           (list 'editing (mapconcat #'cdr (codeclippy--tasks connection) ", ")))
          ((equal (codeclippy--connection-state connection) "failed")
           (list 'failed (codeclippy--connection-reason connection)))
          ((equal (codeclippy--connection-state connection) "ready") (list 'ready nil))
          (t (list 'loading "the model is loading")))))

(defun codeclippy--lighter ()
  "The text for the mode line: only the name if all is well."
  (pcase-let ((`(,state ,reason) (codeclippy-state)))
    (propertize (if (memq state '(ready off)) " Clippy" (format " Clippy:%s" state))
                'face (and (eq state 'failed) 'warning)
                'help-echo (if reason (format "Code Clippy: %s" reason) "Code Clippy"))))

(defun codeclippy--on-rename ()
  "Open this buffer in the server under its new file name."
  (when codeclippy--opened
    (codeclippy--close-document)
    (when-let ((connection (codeclippy--ready-connection)))
      (codeclippy--flush connection))))

(defvar codeclippy-mode-map
  (let ((map (make-sparse-keymap)))
    (define-key map (kbd "M-n") #'codeclippy-complete)
    map)
  "Keys while no suggestion is shown.")

;;;###autoload
(define-minor-mode codeclippy-mode
  "Show suggestions as ghost text while you type.
\\<codeclippy-mode-map>\\[codeclippy-complete] asks for suggestions.
The connection is independent of eglot, which can run another server in the
same buffer.  While a suggestion is shown:

\\{codeclippy-completion-map}"
  :lighter (:eval (codeclippy--lighter))
  :keymap codeclippy-mode-map
  (let ((hooks '((post-command-hook . codeclippy--post-command)
                 (after-change-functions . codeclippy--record-change)
                 (window-selection-change-functions . codeclippy--on-window-change)
                 (after-set-visited-file-name-hook . codeclippy--on-rename)
                 (change-major-mode-hook . codeclippy--close-document)
                 (kill-buffer-hook . codeclippy--close-document))))
    (if codeclippy-mode
        (progn
          (pcase-dolist (`(,hook . ,function) hooks)
            (add-hook hook function nil t))
          (add-to-list 'emulation-mode-map-alists 'codeclippy--keys)
          (add-hook 'kill-emacs-hook #'codeclippy--stop-server)
          (setq codeclippy--last-tick (buffer-chars-modified-tick))
          (when-let ((connection (codeclippy--ready-connection)))
            (codeclippy--flush connection)))
      (pcase-dolist (`(,hook . ,function) hooks)
        (remove-hook hook function t))
      (codeclippy--hide)
      (codeclippy--close-document))))

(defun codeclippy--turn-on ()
  "Turn `codeclippy-mode' on if this buffer is one to edit code in."
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
Its edits are shown first, like those of `codeclippy-mode'.")

;;;###autoload
(defun codeclippy-eglot-contact (&optional _interactive _project)
  "The contact of the server, a value for `eglot-server-programs'."
  (cons 'codeclippy-eglot-server codeclippy-command))

;;;###autoload
(defun codeclippy-eglot ()
  "Start codeclippy-ls with eglot for this project and mode.
It replaces another server that eglot runs here, after a question."
  (interactive)
  (let ((eglot-server-programs (list (cons major-mode #'codeclippy-eglot-contact))))
    (call-interactively #'eglot)))

;; At the end, so that modes that have a server keep it.
(add-to-list 'eglot-server-programs '(prog-mode . codeclippy-eglot-contact) t)

(cl-defmethod initialize-instance :around ((_server codeclippy-eglot-server) &rest _)
  "Start the process in the home folder, on a remote host in that one's.
The folder of the project may be somebody else's."
  (let ((default-directory (expand-file-name (concat (file-remote-p default-directory) "~/"))))
    (cl-call-next-method)))

(cl-defmethod eglot-initialization-options ((_server codeclippy-eglot-server))
  "The user's settings."
  (codeclippy--options))

(cl-defmethod eglot-client-capabilities :around ((_server codeclippy-eglot-server))
  "The capabilities of eglot, with previews of edits and cancellable progress."
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
  (codeclippy--handle-apply-edit server params))

(cl-defmethod eglot-handle-request ((server codeclippy-eglot-server) (_method (eql 'window/showDocument)) &rest params)
  "Store the diff in PARAMS from SERVER for the question that follows."
  (codeclippy--handle-show-document server params))

(cl-defmethod eglot-handle-request ((server codeclippy-eglot-server) (_method (eql 'window/showMessageRequest))
                                    &rest params)
  "Ask the user the question in PARAMS from SERVER, and show the stored diff."
  (codeclippy--handle-message-request server params))

(cl-defmethod eglot-handle-request ((_server codeclippy-eglot-server) (_method (eql 'window/workDoneProgress/create))
                                    &rest _params)
  "Accept the token; eglot 1.9 does not support progress."
  nil)

(cl-defmethod eglot-handle-notification :before ((server codeclippy-eglot-server) (_method (eql '$/progress))
                                                 &key token value &allow-other-keys)
  "Handle the progress VALUE of TOKEN from SERVER, so that it can be cancelled."
  (codeclippy--handle-progress server token value))

(cl-defmethod codeclippy--encoding ((server codeclippy-eglot-server))
  "The position encoding that eglot has negotiated with SERVER."
  (or (plist-get (eglot--capabilities server) :positionEncoding) "utf-16"))

(cl-defmethod codeclippy--flush ((_server codeclippy-eglot-server))
  "Send the current text; eglot does not do so before a command."
  (eglot--signal-textDocument/didChange))

(cl-defmethod codeclippy--identifier ((_server codeclippy-eglot-server))
  "The uri and version of the buffer in eglot."
  (append (eglot--TextDocumentIdentifier)
          ;; Renamed after the eglot of Emacs 30.
          (list :version (cl-loop for name in '(eglot--docver eglot--versioned-identifier)
                                  when (boundp name) return (symbol-value name)))))

(cl-defmethod codeclippy--buffer ((server codeclippy-eglot-server) uri)
  "The buffer that eglot manages in SERVER as URI."
  (cl-find-if (lambda (buffer)
                (with-current-buffer buffer
                  (equal uri (plist-get (eglot--TextDocumentIdentifier) :uri))))
              (eglot--managed-buffers server)))

(provide 'codeclippy)
;;; codeclippy.el ends here
