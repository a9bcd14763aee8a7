//! Puts this kernel's offsets of fields, the size of a bank and the generation's word
//! of the allow-list into the programs' instructions.
//!
//! Takes the object as built and the offset of each field ([`netio_abi::fields`]);
//! produces the object to load. A field appears in two forms only: as the offset of
//! a load, and as a number that is added to an address; the word of the allow-list
//! as the offset of an atomic exchange, too; the size of a bank as a number to
//! multiply by. A field that this kernel lacks gets the offset 0: programs that read
//! it must not be loaded.
#![forbid(unsafe_code)]

use std::ops::Range;

use netio_abi::{
    fields::{ALLOW_WORD, BANK_SLOTS, FIELDS, FIRST, STEP},
    word_of,
};
use object::{Object as _, ObjectSection as _, SectionKind};

use super::AttachError;

/// Length of an instruction (`struct bpf_insn`).
const INSTRUCTION: usize = 8;
/// A load from memory is of this class (`BPF_LDX`).
const CLASS_LDX: u8 = 0x01;
const CLASS_MASK: u8 = 0x07;
/// An atomic exchange with memory (`BPF_STX | BPF_ATOMIC`), of 32 or 64 bits.
const ATOMIC: [u8; 2] = [0xc3, 0xdb];
/// A number is added to a register of 64 bits (`BPF_ALU64 | BPF_ADD | BPF_K`).
const ADD_NUMBER: u8 = 0x07;
/// A register of 32 or 64 bits is multiplied by a number (`BPF_MUL | BPF_K`).
const MULTIPLY: [u8; 2] = [0x24, 0x27];
/// A number of 64 bits, in two instructions (`BPF_LD | BPF_IMM | BPF_DW`).
const LOAD_WIDE: u8 = 0x18;

/// What the made-up numbers become.
pub(super) struct Numbers<'a> {
    /// One for each of [`FIELDS`].
    pub(super) offsets: &'a [i16],
    pub(super) bank_slots: u32,
    pub(super) generation: u32,
}

impl Numbers<'_> {
    /// What a made-up offset becomes; none, if this is not one.
    fn offset(&self, made_up: i32) -> Option<i32> {
        let made_up = usize::try_from(made_up).ok()?;
        if made_up == ALLOW_WORD {
            let offset = word_of(self.generation) * size_of::<u32>();
            return i32::try_from(offset).ok();
        }
        let beyond = made_up.checked_sub(FIRST)?;
        let index = beyond.is_multiple_of(STEP).then_some(beyond / STEP)?;
        self.offsets.get(index).map(|offset| i32::from(*offset))
    }
}

/// The object with these numbers.
pub(super) fn with_numbers(built: &[u8], numbers: &Numbers<'_>) -> Result<Vec<u8>, AttachError> {
    let file = object::File::parse(built)
        .map_err(|error| AttachError::new(format!("the programs' object is damaged: {error}")))?;
    let mut ready = built.to_vec();
    for section in file.sections() {
        if section.kind() != SectionKind::Text {
            continue;
        }
        let Some((start, length)) = section.file_range() else {
            continue;
        };
        let range = usize::try_from(start)
            .ok()
            .zip(usize::try_from(length).ok());
        let code = range.and_then(|(start, length)| ready.get_mut(start..start + length));
        let code = code.ok_or_else(|| AttachError::new("the programs' object is cut off"))?;
        let mut instructions = code.chunks_exact_mut(INSTRUCTION);
        while let Some(instruction) = instructions.next() {
            if instruction.first() == Some(&LOAD_WIDE) {
                instructions.next();
            } else {
                set(instruction, numbers);
            }
        }
    }
    Ok(ready)
}

/// Replaces a made-up number in one instruction: operation, registers, an offset of
/// 16 bits, a number of 32 bits.
fn set(instruction: &mut [u8], numbers: &Numbers<'_>) {
    let &mut [operation, _, o0, o1, n0, n1, n2, n3] = instruction else {
        return;
    };
    let number = i32::from_le_bytes([n0, n1, n2, n3]);
    if MULTIPLY.contains(&operation) && number.cast_unsigned() == BANK_SLOTS {
        replace(instruction, 4..8, &numbers.bank_slots.to_le_bytes());
        return;
    }
    let is_load = operation & CLASS_MASK == CLASS_LDX;
    let (made_up, place) = if is_load || ATOMIC.contains(&operation) {
        (i32::from(i16::from_le_bytes([o0, o1])), 2..4)
    } else if operation == ADD_NUMBER {
        (number, 4..8)
    } else {
        return;
    };
    if let Some(offset) = numbers.offset(made_up) {
        // The lower half is the same number in 16 bits.
        replace(instruction, place, &offset.to_le_bytes());
    }
}

fn replace(instruction: &mut [u8], place: Range<usize>, number: &[u8]) {
    let place = instruction.get_mut(place).into_iter().flatten();
    place.zip(number).for_each(|(to, from)| *to = *from);
}

/// The place of a field in [`FIELDS`].
pub(super) fn index_of(placeholder: usize) -> Option<usize> {
    FIELDS
        .iter()
        .position(|field| field.placeholder == placeholder)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(object: &[u8], offsets: &[i16], generation: u32) -> Vec<u8> {
        let numbers = Numbers {
            offsets,
            bank_slots: 7,
            generation,
        };
        with_numbers(object, &numbers).unwrap()
    }

    /// The made-up offsets that are left in an object's instructions.
    fn left(object: &[u8]) -> Vec<usize> {
        let mut left = Vec::new();
        for (place, field) in FIELDS.iter().enumerate() {
            let mut offsets = vec![0; FIELDS.len()];
            let none = with(object, &offsets, 0);
            offsets[place] = 0x55;
            if with(object, &offsets, 0) != none {
                left.push(field.placeholder);
            }
        }
        left
    }

    #[test]
    fn every_field_is_read_by_a_program_and_set() {
        let all: Vec<usize> = FIELDS.iter().map(|field| field.placeholder).collect();
        let built = super::super::object::OBJECT;
        assert_eq!(left(built), all);
        let offsets = vec![0x1234; FIELDS.len()];
        let ready = with(built, &offsets, 0);
        assert!(left(&ready).is_empty());
        assert_ne!(ready, with(built, &offsets, 1));
        assert_eq!(ready, with(built, &offsets, 2));
        let made_up = (ALLOW_WORD as u16).to_le_bytes();
        let has_word = |object: &[u8]| object.windows(2).any(|it| it == made_up);
        assert!(has_word(built) && !has_word(&ready));
        assert_eq!(ready.len(), built.len());
        let has_bank = |object: &[u8]| object.windows(4).any(|it| it == BANK_SLOTS.to_le_bytes());
        assert!(has_bank(built) && !has_bank(&ready));
    }

    #[test]
    fn a_load_and_an_addition_are_set_and_nothing_else() {
        let [first, second] = [FIRST, FIRST + STEP].map(|made_up| made_up as u8);
        let high = (FIRST >> 8) as u8;
        let offsets = [0x0102, 0x0304];
        let [b0, b1, b2, b3] = BANK_SLOTS.to_le_bytes();
        let [w0, w1] = (ALLOW_WORD as u16).to_le_bytes();
        for (instruction, expected) in [
            // r2 = *(u32 *)(r1 + second)
            (
                [0x61, 0x12, second, high, 0, 0, 0, 0],
                [0x61, 0x12, 4, 3, 0, 0, 0, 0],
            ),
            // r2 += first
            (
                [0x07, 0x02, 0, 0, first, high, 0, 0],
                [0x07, 0x02, 0, 0, 2, 1, 0, 0],
            ),
            // w0 = xchg(*(u32 *)(r1 + word), w0)
            (
                [0xc3, 0x01, w0, w1, 0xe1, 0, 0, 0],
                [0xc3, 0x01, 4, 0, 0xe1, 0, 0, 0],
            ),
            // w2 *= slots
            (
                [0x24, 0x02, 0, 0, b0, b1, b2, b3],
                [0x24, 0x02, 0, 0, 9, 0, 0, 0],
            ),
            // w2 += slots
            (
                [0x04, 0x02, 0, 0, b0, b1, b2, b3],
                [0x04, 0x02, 0, 0, b0, b1, b2, b3],
            ),
            // r2 = first, *(u32 *)(r1 + first) = r2, r2 += first + 1
            (
                [0xb7, 0x02, 0, 0, first, high, 0, 0],
                [0xb7, 0x02, 0, 0, first, high, 0, 0],
            ),
            (
                [0x63, 0x21, first, high, 0, 0, 0, 0],
                [0x63, 0x21, first, high, 0, 0, 0, 0],
            ),
            (
                [0x07, 0x02, 0, 0, first + 1, high, 0, 0],
                [0x07, 0x02, 0, 0, first + 1, high, 0, 0],
            ),
        ] {
            let mut is = instruction;
            let numbers = Numbers {
                offsets: &offsets,
                bank_slots: 9,
                generation: 1,
            };
            set(&mut is, &numbers);
            assert_eq!(is, expected, "{instruction:x?}");
        }
    }

    #[test]
    fn a_damaged_object_is_an_error() {
        let numbers = Numbers {
            offsets: &[],
            bank_slots: 0,
            generation: 0,
        };
        assert!(with_numbers(b"not an object", &numbers).is_err());
    }
}
