;;; session.el --- A hard session with the server over jsonrpc.el  -*- lexical-binding: t -*-

;;; Commentary:

;; Writes what came of it as JSON.  COMMAND is the server's as JSON, SCRIPT its script, WAY how it is reached: stdio, or a
;; port.

;;; Code:

(require 'json)
(require 'jsonrpc)
(set-language-environment "UTF-8")

(defvar problems nil)
(defvar answers (make-hash-table :test #'equal))
(defvar outcomes (make-hash-table :test #'equal))
(defvar status nil)
(defvar progress 0)
(defvar applied 0)
(defvar sent 0)
(defvar text nil)
(defvar way (getenv "WAY"))
(defvar script (getenv "SCRIPT"))

(defun problem (format &rest given)
  "Remember what FORMAT says of GIVEN."
  (push (truncate-string-to-width (apply #'format format given) 300) problems))

(defun says (keys)
  "Have the engine follow KEYS, a plist."
  (let ((coding-system-for-write 'utf-8-unix))
    (with-temp-file (concat script ".new") (insert (json-serialize keys))))
  (rename-file (concat script ".new") script t))

(defun within (what condition)
  "Wait for CONDITION, which is called WHAT."
  (let ((end (+ (float-time) 30)))
    (while (not (or (funcall condition) (and (> (float-time) end) (progn (problem "waited in vain for %s" what) t))))
      (accept-process-output nil 0.01))))

;; Whatever it would say by itself is a problem.
(advice-add 'jsonrpc--warn :before (lambda (&rest given) (problem "warned: %S" given)))
(advice-add 'display-warning :before (lambda (&rest given) (problem "warned: %S" given)))
(advice-add 'jsonrpc-connection-receive :before
            (lambda (_connection message &rest _)
              (unless (plist-get message :method)
                (let ((id (plist-get message :id))) (puthash id (1+ (gethash id answers 0)) answers)))))

(says '(:complete "'ü😀' + wert"))
(defvar process
  (if (equal way "stdio")
      (make-process :name "server" :command (append (json-parse-string (getenv "COMMAND")) nil) :connection-type 'pipe
                    :coding 'utf-8-emacs-unix :noquery t :stderr (get-buffer-create "*stderr*"))
    (let ((made (open-network-stream "server" nil "127.0.0.1" (string-to-number way))))
      (set-process-coding-system made 'utf-8-emacs-unix 'utf-8-emacs-unix)
      made)))
(defvar connection
  (make-instance
   'jsonrpc-process-connection :name "server" :process process
   :notification-dispatcher
   (lambda (_ method params)
     (pcase method
       ('$/progress (setq progress (1+ progress)))
       ('codeclippy/status (push (plist-get params :state) status))
       (_ (problem "%s: %S" method params))))
   :request-dispatcher
   (lambda (_ method _)
     (pcase method
       ('workspace/applyEdit (setq applied (1+ applied)) '(:applied t))
       ('window/workDoneProgress/create nil)
       (_ (problem "%s" method) nil)))))

(defun ask (kind method params &optional take)
  "Ask for METHOD with PARAMS; what comes of it is one of KIND, and is given to TAKE.  Return the id."
  (setq sent (1+ sent))
  (car (jsonrpc--async-request-1
        connection method params :timeout nil
        :success-fn (lambda (result) (push "result" (gethash kind outcomes)) (when take (funcall take result)))
        :error-fn (lambda (failure)
                    (push (plist-get failure :code) (gethash kind outcomes))
                    (when take (funcall take failure))))))

(defun all ()
  "Wait for the answers."
  (within "answers" (lambda () (>= (apply #'+ (mapcar #'length (hash-table-values outcomes))) sent))))

(require 'subr-x)
(ask "plain" 'initialize
     `(:processId ,(emacs-pid) :rootUri nil
       :capabilities (:window (:workDoneProgress t) :workspace (:applyEdit t))
       :initializationOptions (:statusNotification t :completion (:prefetch :json-false))))
(all)
(jsonrpc-notify connection 'initialized (make-hash-table))
(within "the model" (lambda () (equal (car status) "ready")))

(defvar uri "file:///ü😀.py")
(defvar position '(:line 2 :character 4))
(defun open (name)
  "Open a document called NAME."
  (jsonrpc-notify connection 'textDocument/didOpen
                  `(:textDocument (:uri ,name :languageId "python" :version 1 :text "# 日本😀\na = 1\nx = "))))
(open uri)
(ask "plain" 'textDocument/completion `(:textDocument (:uri ,uri) :position ,position)
     (lambda (result) (setq text (plist-get (plist-get (elt (plist-get result :items) 0) :textEdit) :newText))))
(all)

;; Many at a time, of all kinds.
(dotimes (n 40)
  (let ((name (format "file:///%d😀.py" n)))
    (open name)
    (ask "plain" 'textDocument/completion `(:textDocument (:uri ,name) :position ,position))
    (ask "plain" 'textDocument/codeAction `(:textDocument (:uri ,uri) :context (:diagnostics [])
                                            :range (:start ,position :end ,position)))
    (ask "unknown" 'nobody/knows `(:n ,n))
    (ask "params" 'textDocument/completion `(:textDocument ,n))))
(all)

;; Cancelled at once, twice, after the answer, and what never was.
(says '(:complete "x" :delay 0.2))
(dotimes (n 40)
  (let ((id (ask "cancelled" 'textDocument/completion
                 `(:textDocument (:uri ,(format "file:///%d😀.py" n)) :position (:line 0 :character 2)))))
    (dolist (one (list id id (+ 100000 n) (number-to-string n)))
      (jsonrpc-notify connection '$/cancelRequest `(:id ,one)))))
(all)
(dotimes (id sent) (jsonrpc-notify connection '$/cancelRequest `(:id ,id)))

;; Large, both ways.
(ask "unknown" (intern (apply #'concat (make-list 100000 "😀"))) (make-hash-table)
     (lambda (failure)
       (unless (string-search (apply #'concat (make-list 1000 "😀")) (plist-get failure :message))
         (problem "the large answer"))))
(all)

;; An edit with thousands of notifications before it.
(says `(:fault "flood" :edit ,(getenv "HUNKS")))
(ask "plain" 'workspace/executeCommand `(:command "codeclippy.edit" :arguments [(:uri ,uri :message "Go")]))
(within "the edit" (lambda () (> applied 0)))
(says '(:complete "y"))
(ask "plain" 'textDocument/completion `(:textDocument (:uri ,uri) :position ,position))
(all)
(ask "plain" 'shutdown nil)
(all)
(jsonrpc-notify connection 'exit nil)
(within "the end" (lambda () (not (process-live-p process))))

(puthash "text" text outcomes)
(maphash (lambda (kind found) (when (consp found) (puthash kind (vconcat found) outcomes))) outcomes)
(princ (concat "\n" (decode-coding-string (json-serialize
        `(:sent ,sent :answered ,(hash-table-count answers)
          :twice ,(vconcat (let (found) (maphash (lambda (id count) (when (/= count 1) (push id found))) answers) found))
          :outcomes ,outcomes
          :counts (:applied ,applied :progress ,progress :status ,(vconcat (reverse status)))
          :problems ,(vconcat problems)
          :codes ,(if (equal way "stdio") `(:exit ,(process-exit-status process)) (make-hash-table)))) 'utf-8) "\n"))
;;; session.el ends here
