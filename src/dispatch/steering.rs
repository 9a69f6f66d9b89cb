//! Programs for the listener group: which of its sockets receives a new connection.
//!
//! Classic BPF, run by the kernel when a SYN arrives, with the packet at hand. Pure: a list of
//! instructions, with an interpreter beside it in the tests.

use std::net::{IpAddr, SocketAddr};

use crate::sys::reuseport::Instruction;

const LOAD_WORD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const LOAD_HALF: u16 = 0x28; // BPF_LD | BPF_H | BPF_ABS
const LOAD_BYTE: u16 = 0x30; // BPF_LD | BPF_B | BPF_ABS
const MULTIPLY: u16 = 0x24; // BPF_ALU | BPF_MUL | BPF_K
const XOR_X: u16 = 0xac; // BPF_ALU | BPF_XOR | BPF_X
const SHIFT_RIGHT: u16 = 0x74; // BPF_ALU | BPF_RSH | BPF_K
const MODULO: u16 = 0x94; // BPF_ALU | BPF_MOD | BPF_K
const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const TO_X: u16 = 0x07; // BPF_MISC | BPF_TAX
const JUMP_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA: skip k instructions
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

/// Multiplies the port (Knuth's multiplicative hash).
const SPREAD_PORT: u32 = 0x9e37_79b1;
/// Multiplies port and address together (a constant of MurmurHash3's finaliser).
const SPREAD_ALL: u32 = 0x85eb_ca6b;
/// Where the bits begin that depend on all that went in.
const MIDDLE: u32 = 15;

/// Offsets from here count from the start of the IP header (`SKF_NET_OFF`, linux/filter.h).
const NETWORK: u32 = (-0x10_0000_i32) as u32;

/// Everything to the shared listener, the group's member 0.
pub fn to_shared() -> Vec<Instruction> {
    vec![op(RETURN, 0)]
}

/// Spreads connections over `members` (indices in the group) by a hash of the client's address and
/// port. With no member, everything to the shared listener.
///
/// The hash is computed from the packet rather than read from the socket buffer
/// (`SKF_AD_RXHASH`): a network card without receive hashing leaves that at 0, which would send
/// every connection to one worker.
pub fn by_hash(members: &[u32]) -> Vec<Instruction> {
    let Some((last, others)) = members.split_last() else {
        return to_shared();
    };
    let mut program = vec![
        // The version is the first half-byte of either header.
        op(LOAD_BYTE, NETWORK),
        op(SHIFT_RIGHT, 4),
        branch(6, 0, 7),
        // IPv6: fold the source address (the prefix's low word, the interface's low word) into X.
        op(LOAD_WORD, NETWORK + 12),
        op(TO_X, 0),
        op(LOAD_WORD, NETWORK + 20),
        op(XOR_X, 0),
        op(TO_X, 0),
        op(LOAD_HALF, NETWORK + 40),
        op(JUMP, 3),
        // IPv4: the source address into X. (With IP options the next load is not the port; such
        // packets are still spread, only by less.)
        op(LOAD_WORD, NETWORK + 12),
        op(TO_X, 0),
        op(LOAD_HALF, NETWORK + 20),
        // A is the client's port: multiply, fold the address in, multiply, take the middle.
        op(MULTIPLY, SPREAD_PORT),
        op(XOR_X, 0),
        op(MULTIPLY, SPREAD_ALL),
        op(SHIFT_RIGHT, MIDDLE),
        op(MODULO, members.len() as u32),
    ];
    for (i, member) in others.iter().enumerate() {
        program.extend([branch(i as u32, 0, 1), op(RETURN, *member)]);
    }
    program.push(op(RETURN, *last));
    program
}

/// What [`by_hash`]'s program computes from a client's address before it takes the remainder by the
/// number of members: which of them the kernel would choose.
#[inline]
pub fn hash(client: SocketAddr) -> u32 {
    let address = match client.ip().to_canonical() {
        IpAddr::V4(a) => u32::from(a),
        // Two of its four words, as the program has it.
        IpAddr::V6(a) => (u128::from(a) >> 64) as u32 ^ u128::from(a) as u32,
    };
    let port = u32::from(client.port()).wrapping_mul(SPREAD_PORT);
    (port ^ address).wrapping_mul(SPREAD_ALL) >> MIDDLE
}

/// For a listener that is about to be closed: hears no SYN, and everything else. Connections that are
/// being established still arrive; who knocks now will try again, and find the listener gone or its
/// successor there.
pub fn no_new() -> Vec<Instruction> {
    const FLAGS: u32 = 13; // offset in the TCP header, RFC 9293, section 3.1
    const SYN: u32 = 0x02;
    const ALL: u32 = 0xffff_ffff;
    vec![
        op(LOAD_BYTE, FLAGS),
        op(AND, SYN),
        branch(SYN, 0, 1),
        op(RETURN, 0),
        op(RETURN, ALL),
    ]
}

const fn op(code: u16, k: u32) -> Instruction {
    Instruction {
        code,
        jump_true: 0,
        jump_false: 0,
        k,
    }
}

const fn branch(k: u32, jump_true: u8, jump_false: u8) -> Instruction {
    Instruction {
        code: JUMP_EQUAL,
        jump_true,
        jump_false,
        k,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel would return for a packet: the few instructions that we use.
    fn run(program: &[Instruction], packet: &[u8]) -> u32 {
        let (mut a, mut x, mut pc) = (0_u32, 0_u32, 0);
        let load = |k: u32, n: usize| {
            let at = k.wrapping_sub(NETWORK) as usize;
            packet[at..at + n]
                .iter()
                .fold(0_u32, |v, b| v << 8 | u32::from(*b))
        };
        loop {
            let i = program[pc];
            pc += 1;
            match i.code {
                LOAD_WORD => a = load(i.k, 4),
                LOAD_HALF => a = load(i.k, 2),
                LOAD_BYTE => a = load(i.k, 1),
                MULTIPLY => a = a.wrapping_mul(i.k),
                XOR_X => a ^= x,
                SHIFT_RIGHT => a >>= i.k,
                MODULO => a %= i.k,
                TO_X => x = a,
                JUMP => pc += i.k as usize,
                JUMP_EQUAL => pc += usize::from(if a == i.k { i.jump_true } else { i.jump_false }),
                RETURN => return i.k,
                code => panic!("instruction {code:#x}"),
            }
        }
    }

    fn v4(client: [u8; 4], port: u16) -> Vec<u8> {
        let mut packet = vec![0; 40];
        packet[0] = 0x45;
        packet[12..16].copy_from_slice(&client);
        packet[20..22].copy_from_slice(&port.to_be_bytes());
        packet
    }

    fn v6(client: u128, port: u16) -> Vec<u8> {
        let mut packet = vec![0; 60];
        packet[0] = 0x60;
        packet[8..24].copy_from_slice(&client.to_be_bytes());
        packet[40..42].copy_from_slice(&port.to_be_bytes());
        packet
    }

    #[test]
    fn the_shared_program_returns_the_shared_listener() {
        assert_eq!(run(&to_shared(), &v4([127, 0, 0, 1], 1)), 0);
        assert_eq!(run(&by_hash(&[]), &v4([127, 0, 0, 1], 1)), 0);
    }

    #[test]
    fn the_hash_says_what_the_program_would_choose() {
        let members = [1, 4, 9, 7];
        let program = by_hash(&members);
        let chosen = |client: SocketAddr| members[hash(client) as usize % members.len()];
        for port in (1024..60_000_u16).step_by(7) {
            let client = [10, port as u8, 3, (port >> 8) as u8];
            let packet = v4(client, port);
            assert_eq!(run(&program, &packet), chosen((client, port).into()));
            let client = u128::from(port) << 70 | 0x2001_0db8 << 96 | u128::from(!port);
            let packet = v6(client, port);
            let address = std::net::Ipv6Addr::from(client);
            assert_eq!(run(&program, &packet), chosen((address, port).into()));
        }
    }

    #[test]
    fn ports_of_one_client_spread_over_exactly_the_members() {
        for (members, what) in [(vec![1, 2, 3, 4], "all"), (vec![1, 4, 9], "with gaps")] {
            let program = by_hash(&members);
            for family in [4, 6] {
                let mut hits = std::collections::BTreeMap::new();
                for port in 32_768..60_000_u16 {
                    let packet = if family == 4 {
                        v4([127, 0, 0, 1], port)
                    } else {
                        v6(1, port)
                    };
                    *hits.entry(run(&program, &packet)).or_insert(0_u32) += 1;
                }
                assert!(hits.keys().eq(&members), "{what}, IPv{family}: {hits:?}");
                let fair = (60_000 - 32_768) / members.len() as u32;
                let skewed = hits.values().any(|n| n.abs_diff(fair) > fair / 10);
                assert!(!skewed, "{what}, IPv{family}: {hits:?}");
            }
        }
    }

    #[test]
    fn clients_that_use_the_same_port_spread_too() {
        let program = by_hash(&[1, 2]);
        let ones = (0..=255_u8)
            .filter(|i| run(&program, &v4([10, 0, 0, *i], 40_000)) == 1)
            .count();
        assert!((64..=192).contains(&ones), "{ones} of 256");
    }
}
