;; Counts the words of a text: a WASI preview 1 command. {"text":"one two"} on stdin gives {"words":2} on stdout.
(module
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (memory (export "memory") 2)                      ;; 128 KiB: the inputs from 1024 on
  (data (i32.const 64) "{\"words\":")
  (data (i32.const 96) "there is no text\n")
  (global $end (mut i32) (i32.const 1024))          ;; where the inputs end

  (func $write (param $fd i32) (param $at i32) (param $count i32)
    (i32.store (i32.const 0) (local.get $at))
    (i32.store (i32.const 4) (local.get $count))
    (drop (call $fd_write (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 8))))

  (func $read_all
    (loop $more
      (i32.store (i32.const 0) (global.get $end))
      (i32.store (i32.const 4) (i32.sub (i32.const 131072) (global.get $end)))
      (drop (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
      (global.set $end (i32.add (global.get $end) (i32.load (i32.const 8))))
      (br_if $more (i32.load (i32.const 8)))))

  (func $write_number (param $number i32)
    (local $at i32)
    (local.set $at (i32.const 64))                  ;; backwards from here; the text there has been written
    (loop $digit
      (local.set $at (i32.sub (local.get $at) (i32.const 1)))
      (i32.store8 (local.get $at) (i32.add (i32.const 48) (i32.rem_u (local.get $number) (i32.const 10))))
      (local.set $number (i32.div_u (local.get $number) (i32.const 10)))
      (br_if $digit (local.get $number)))
    (call $write (i32.const 1) (local.get $at) (i32.sub (i32.const 64) (local.get $at))))

  (func (export "_start")
    (local $at i32) (local $words i32) (local $letter i32) (local $before i32)
    (call $read_all)
    (local.set $at (i32.const 1024))
    (block $found                                   ;; the value begins after the first colon
      (loop $key
        (if (i32.ge_u (local.get $at) (global.get $end))
          (then
            (call $write (i32.const 2) (i32.const 96) (i32.const 17))
            (call $proc_exit (i32.const 1))))
        (br_if $found (i32.eq (i32.load8_u (local.get $at)) (i32.const 58)))
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (br $key)))
    (loop $next                                     ;; a word begins where a letter follows none
      (local.set $letter (i32.or
        (i32.ge_u (i32.load8_u (local.get $at)) (i32.const 128))
        (i32.lt_u (i32.sub (i32.or (i32.load8_u (local.get $at)) (i32.const 32)) (i32.const 97)) (i32.const 26))))
      (local.set $words
        (i32.add (local.get $words) (i32.and (local.get $letter) (i32.eqz (local.get $before)))))
      (local.set $before (local.get $letter))
      (local.set $at (i32.add (local.get $at) (i32.const 1)))
      (br_if $next (i32.lt_u (local.get $at) (global.get $end))))
    (call $write (i32.const 1) (i32.const 64) (i32.const 9))
    (call $write_number (local.get $words))
    (i32.store8 (i32.const 64) (i32.const 125))
    (call $write (i32.const 1) (i32.const 64) (i32.const 1))))
