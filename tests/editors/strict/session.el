;;; session.el --- A stress session with the server over jsonrpc.el  -*- lexical-binding: t -*-

;;; Commentary:

;; Writes its results as JSON.  COMMAND is the server's command as JSON, SCRIPT its script, TRANSPORT how to connect: stdio
;; or a TCP port.

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
(defvar transport (getenv "TRANSPORT"))
(defvar script (getenv "SCRIPT"))

(defun report-problem (format &rest args)
  "Record a problem, made from FORMAT and ARGS."
  (push (truncate-string-to-width (apply #'format format args) 300) problems))

(defun write-script (keys)
  "Write KEYS, a plist, to the script of the server."
  (let ((coding-system-for-write 'utf-8-unix))
    (with-temp-file (concat script ".new") (insert (json-serialize keys))))
  (rename-file (concat script ".new") script t))

(defun wait-until (description condition)
  "Wait until CONDITION holds; DESCRIPTION is for the report."
  (let ((end (+ (float-time) 30)))
    (while (not (or (funcall condition) (and (> (float-time) end) (progn (report-problem "timed out waiting for %s" description) t))))
      (accept-process-output nil 0.01))))

;; Each warning is a problem.
(advice-add 'jsonrpc--warn :before (lambda (&rest given) (report-problem "warned: %S" given)))
(advice-add 'display-warning :before (lambda (&rest given) (report-problem "warned: %S" given)))
(advice-add 'jsonrpc-connection-receive :before
            (lambda (_connection message &rest _)
              (unless (plist-get message :method)
                (let ((id (plist-get message :id))) (puthash id (1+ (gethash id answers 0)) answers)))))

(write-script '(:complete "'ü😀' + wert"))
(defvar process
  (if (equal transport "stdio")
      (make-process :name "server" :command (append (json-parse-string (getenv "COMMAND")) nil) :connection-type 'pipe
                    :coding 'utf-8-emacs-unix :noquery t :stderr (get-buffer-create "*stderr*"))
    (let ((made (open-network-stream "server" nil "127.0.0.1" (string-to-number transport))))
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
       (_ (report-problem "%s: %S" method params))))
   :request-dispatcher
   (lambda (_ method _)
     (pcase method
       ('workspace/applyEdit (setq applied (1+ applied)) '(:applied t))
       ('window/workDoneProgress/create nil)
       (_ (report-problem "%s" method) nil)))))

(defun send-request (kind method params &optional on-result)
  "Send METHOD with PARAMS; record the outcome as KIND and pass it to ON-RESULT.  Return the id."
  (setq sent (1+ sent))
  (car (jsonrpc--async-request-1
        connection method params :timeout nil
        :success-fn (lambda (result) (push "result" (gethash kind outcomes)) (when on-result (funcall on-result result)))
        :error-fn (lambda (failure)
                    (push (plist-get failure :code) (gethash kind outcomes))
                    (when on-result (funcall on-result failure))))))

(defun wait-for-answers ()
  "Wait for all answers."
  (wait-until "answers" (lambda () (>= (apply #'+ (mapcar #'length (hash-table-values outcomes))) sent))))

(require 'subr-x)
(send-request "plain" 'initialize
     `(:processId ,(emacs-pid) :rootUri nil
       :capabilities (:window (:workDoneProgress t) :workspace (:applyEdit t))
       :initializationOptions (:statusNotification t :completion (:prefetch :json-false))))
(wait-for-answers)
(jsonrpc-notify connection 'initialized (make-hash-table))
(wait-until "the model" (lambda () (equal (car status) "ready")))

(defvar uri "file:///ü😀.py")
(defvar position '(:line 2 :character 4))
(defun open (name)
  "Open a document with the uri NAME."
  (jsonrpc-notify connection 'textDocument/didOpen
                  `(:textDocument (:uri ,name :languageId "python" :version 1 :text "# 日本😀\na = 1\nx = "))))
(open uri)
(send-request "plain" 'textDocument/completion `(:textDocument (:uri ,uri) :position ,position)
     (lambda (result) (setq text (plist-get (plist-get (elt (plist-get result :items) 0) :textEdit) :newText))))
(wait-for-answers)

;; Many requests of all kinds at a time.
(dotimes (n 40)
  (let ((name (format "file:///%d😀.py" n)))
    (open name)
    (send-request "plain" 'textDocument/completion `(:textDocument (:uri ,name) :position ,position))
    (send-request "plain" 'textDocument/codeAction `(:textDocument (:uri ,uri) :context (:diagnostics [])
                                            :range (:start ,position :end ,position)))
    (send-request "unknown" 'nobody/knows `(:n ,n))
    (send-request "params" 'textDocument/completion `(:textDocument ,n))))
(wait-for-answers)

;; Cancelled immediately, twice, after the answer, and with unknown ids.
(write-script '(:complete "x" :delay 0.2))
(dotimes (n 40)
  (let ((id (send-request "cancelled" 'textDocument/completion
                 `(:textDocument (:uri ,(format "file:///%d😀.py" n)) :position (:line 0 :character 2)))))
    (dolist (one (list id id (+ 100000 n) (number-to-string n)))
      (jsonrpc-notify connection '$/cancelRequest `(:id ,one)))))
(wait-for-answers)
(dotimes (id sent) (jsonrpc-notify connection '$/cancelRequest `(:id ,id)))

;; A large request and a large answer.
(send-request "unknown" (intern (apply #'concat (make-list 100000 "😀"))) (make-hash-table)
     (lambda (failure)
       (unless (string-search (apply #'concat (make-list 1000 "😀")) (plist-get failure :message))
         (report-problem "the large answer is not as expected"))))
(wait-for-answers)

;; An edit after thousands of notifications.
(write-script `(:fault "flood" :edit ,(getenv "HUNKS")))
(send-request "plain" 'workspace/executeCommand `(:command "codeclippy.edit" :arguments [(:uri ,uri :message "Go")]))
(wait-until "the edit" (lambda () (> applied 0)))
(write-script '(:complete "y"))
(send-request "plain" 'textDocument/completion `(:textDocument (:uri ,uri) :position ,position))
(wait-for-answers)
(send-request "plain" 'shutdown nil)
(wait-for-answers)
(jsonrpc-notify connection 'exit nil)
(wait-until "the end" (lambda () (not (process-live-p process))))

(puthash "text" text outcomes)
(maphash (lambda (kind found) (when (consp found) (puthash kind (vconcat found) outcomes))) outcomes)
(princ (concat "\n" (decode-coding-string (json-serialize
        `(:sent ,sent :answered ,(hash-table-count answers)
          :twice ,(vconcat (let (found) (maphash (lambda (id count) (when (/= count 1) (push id found))) answers) found))
          :outcomes ,outcomes
          :counts (:applied ,applied :progress ,progress :status ,(vconcat (reverse status)))
          :problems ,(vconcat problems)
          :codes ,(if (equal transport "stdio") `(:exit ,(process-exit-status process)) (make-hash-table)))) 'utf-8) "\n"))
;;; session.el ends here
