//! Fields of the kernel's structures, whose offsets differ from kernel to kernel.
//!
//! In the programs as built, each field has a made-up offset, which nothing else
//! can have: [`FIRST`] and every [`STEP`] bytes after it. Before the programs are
//! loaded, the collector finds these numbers in their instructions and puts the
//! kernel's own offsets there, so that a field costs one load and no more. The same
//! for [`BANK_SLOTS`], by which programs multiply, and [`ALLOW_WORD`].

/// The first made-up offset, beyond the fields that programs reach at fixed
/// offsets.
pub const FIRST: usize = 0x7000;
/// From one made-up offset to the next: any field is aligned there.
pub const STEP: usize = 8;

/// Stands for where in an entry of the allow-list the programs' own word is: an
/// offset that no field has.
pub const ALLOW_WORD: usize = FIRST - STEP;

/// Stands for the slots in one CPU's bank of counters.
pub const BANK_SLOTS: u32 = 0x7ab5_1075;

/// A field that programs read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// The offset that stands for it in the programs.
    pub placeholder: usize,
    /// The kernel's structure.
    pub structure: &'static str,
    /// The field, with those within it separated by dots; or several such, separated
    /// by bars, of which a kernel has the first that it has.
    pub path: &'static str,
}

macro_rules! fields {
    ($($name:ident = $structure:literal, $path:literal;)*) => {
        #[allow(non_camel_case_types, clippy::upper_case_acronyms)]
        enum Index { $($name),* }

        $(
            #[doc = concat!("`", $structure, ".", $path, "`")]
            pub const $name: usize = FIRST + STEP * Index::$name as usize;
        )*

        /// All of them.
        pub const FIELDS: &[Field] = &[
            $(Field { placeholder: $name, structure: $structure, path: $path }),*
        ];
    };
}

fields! {
    SOCKET_SK = "socket", "sk";
    SK_TYPE = "sock", "sk_type";
    SK_PROTOCOL = "sock", "sk_protocol";
    SK_BPF_STORAGE = "sock", "sk_bpf_storage";
    SK_LOCK_OWNED = "sock", "sk_lock.owned";
    SKC_FLAGS = "sock_common", "skc_flags";
    SKC_STATE = "sock_common", "skc_state";
    SKC_PROT = "sock_common", "skc_prot";
    ACCEPT_HEAD = "inet_connection_sock", "icsk_accept_queue.rskq_accept_head";
    REQUEST_NEXT = "request_sock", "dl_next";
    REQUEST_SK = "request_sock", "sk";
    PROTO_RECVMSG = "proto", "recvmsg";
    ULP_NAME = "tcp_ulp_ops", "name";
    ULP_OPS = "inet_connection_sock", "icsk_ulp_ops";
    COPIED_SEQ = "tcp_sock", "copied_seq";
    RCV_NXT = "tcp_sock", "rcv_nxt";
    BYTES_RECEIVED = "tcp_sock", "bytes_received";
    URG_SEQ = "tcp_sock", "urg_seq";
    ZC_LENGTH = "tcp_zerocopy_receive", "length";
    ZC_COPYBUF_LEN = "tcp_zerocopy_receive", "copybuf_len";
    TASK_TGID = "task_struct", "tgid";
    // It moved in 5.16.
    TASK_CPU = "task_struct", "thread_info.cpu|cpu";
    TASK_START = "task_struct", "start_boottime";
    TASK_SIGNAL = "task_struct", "signal";
    SIGNAL_LIVE = "signal_struct", "live";
}
