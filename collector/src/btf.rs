//! Looks things up in the kernel's BTF: where a structure's field lies, and
//! whether a function is there to be hooked.
//!
//! Reads the format of `Documentation/bpf/btf.rst`; never fails on a kind it
//! does not know how to size, since a wrong guess would give a wrong offset:
//! such data is an error. Takes untrusted bytes (a file), so every access is
//! checked.

use std::{collections::HashMap, fs, io, path::Path};

/// Where a kernel with BTF shows it.
pub(crate) const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

const MAGIC: u16 = 0xeb9f;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_TYPEDEF: u32 = 8;
const KIND_VOLATILE: u32 = 9;
const KIND_CONST: u32 = 10;
const KIND_FUNC: u32 = 12;
const KIND_FUNC_PROTO: u32 = 13;
/// How deep anonymous members may nest (the kernel's nest 3 deep).
const MAX_DEPTH: u32 = 8;
/// Members that are looked at for one field, those of anonymous members included:
/// damaged data could nest the same large one in itself over and over.
const MAX_MEMBERS: u32 = 65_536;
/// The longest name (the kernel's are below 512 bytes): damaged data could have
/// every member share one name of megabytes.
const MAX_NAME: usize = 1024;

/// Why BTF could not be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BtfError {
    /// The file could not be read.
    #[error("cannot read {path}: {source} (a kernel built with CONFIG_DEBUG_INFO_BTF=y has it)")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The data is not BTF as documented.
    #[error("malformed BTF: {0}")]
    Malformed(&'static str),
    /// There is no such field.
    #[error("this kernel's struct {structure} has no field {field}")]
    NoField {
        /// The structure.
        structure: String,
        /// The field.
        field: String,
    },
}

/// A kernel's types, as far as they are needed here.
pub(crate) struct Btf {
    structures: HashMap<String, u32>,
    /// Name → the type that holds its parameters.
    functions: HashMap<String, u32>,
    types: Vec<Type>,
}

struct Type {
    kind: u32,
    /// Members of a structure, parameters of a function's prototype.
    count: u32,
    /// What a typedef or a qualifier stands for.
    target: u32,
    members: Vec<Member>,
}

struct Member {
    name: String,
    type_id: u32,
    bit_offset: u32,
}

impl Btf {
    /// The running kernel's.
    pub(crate) fn of_kernel() -> Result<Self, BtfError> {
        Self::read(Path::new(KERNEL_BTF))
    }

    /// A file's.
    pub(crate) fn read(path: &Path) -> Result<Self, BtfError> {
        let data = fs::read(path).map_err(|source| BtfError::Read {
            path: path.display().to_string(),
            source,
        })?;
        Self::parse(&data)
    }

    /// Parses the raw data.
    pub(crate) fn parse(data: &[u8]) -> Result<Self, BtfError> {
        let header = Words { data, at: 0 };
        if header.u16_at(0)? != MAGIC {
            return Err(BtfError::Malformed("no magic number"));
        }
        let header_len = header.u32_at(4)? as usize;
        let section = |offset_at, length_at| -> Result<&[u8], BtfError> {
            let start = header_len
                .checked_add(header.u32_at(offset_at)? as usize)
                .ok_or(BtfError::Malformed("section offset"))?;
            let end = start
                .checked_add(header.u32_at(length_at)? as usize)
                .ok_or(BtfError::Malformed("section length"))?;
            data.get(start..end)
                .ok_or(BtfError::Malformed("section outside the data"))
        };
        let types = section(8, 12)?;
        let strings = section(16, 20)?;

        let mut btf = Self {
            structures: HashMap::new(),
            functions: HashMap::new(),
            // Type 0 is void.
            types: vec![Type {
                kind: 0,
                count: 0,
                target: 0,
                members: Vec::new(),
            }],
        };
        let mut words = Words { data: types, at: 0 };
        while words.at < types.len() {
            btf.add_type(&mut words, strings)?;
        }
        Ok(btf)
    }

    fn add_type(&mut self, words: &mut Words<'_>, strings: &[u8]) -> Result<(), BtfError> {
        let name = words.next()?;
        let info = words.next()?;
        let size_or_type = words.next()?;
        let (kind, vlen, kind_flag) = ((info >> 24) & 0x1f, info & 0xffff, info >> 31 == 1);
        let mut members = Vec::new();
        match kind {
            KIND_STRUCT | KIND_UNION => {
                for _ in 0..vlen {
                    let member_name = words.next()?;
                    let type_id = words.next()?;
                    let offset = words.next()?;
                    members.push(Member {
                        name: string(strings, member_name)?.to_owned(),
                        type_id,
                        bit_offset: if kind_flag {
                            offset & 0xff_ffff
                        } else {
                            offset
                        },
                    });
                }
            }
            // ptr, fwd, typedef, volatile, const, restrict, func, float, type_tag
            2 | 7 | KIND_TYPEDEF | KIND_VOLATILE | KIND_CONST | 11 | KIND_FUNC | 16 | 18 => {}
            // int, var, decl_tag
            1 | 14 | 17 => words.skip(1)?,
            // array
            3 => words.skip(3)?,
            // enum, func_proto
            6 | KIND_FUNC_PROTO => words.skip(2 * vlen as usize)?,
            // datasec, enum64
            15 | 19 => words.skip(3 * vlen as usize)?,
            _ => return Err(BtfError::Malformed("a kind of type that is not known")),
        }
        let name = string(strings, name)?;
        if !name.is_empty() {
            let id = u32::try_from(self.types.len())
                .map_err(|_| BtfError::Malformed("too many types"))?;
            if kind == KIND_STRUCT {
                self.structures.entry(name.to_owned()).or_insert(id);
            } else if kind == KIND_FUNC {
                self.functions.insert(name.to_owned(), size_or_type);
            }
        }
        self.types.push(Type {
            kind,
            count: vlen,
            target: size_or_type,
            members,
        });
        Ok(())
    }

    /// Whether the kernel has a function of this name that can be hooked.
    pub(crate) fn has_function(&self, name: &str) -> bool {
        self.functions.contains_key(name)
    }

    /// How many parameters a function has.
    pub(crate) fn parameters(&self, name: &str) -> Option<u32> {
        let prototype = self.types.get(*self.functions.get(name)? as usize)?;
        (prototype.kind == KIND_FUNC_PROTO).then_some(prototype.count)
    }

    /// The byte offset of a structure's field, looked for in anonymous members
    /// too; `a.b` is field b of the structure that field a is.
    pub(crate) fn offset_of(&self, structure: &str, path: &str) -> Result<u32, BtfError> {
        let bits = || {
            let mut within = *self.structures.get(structure)?;
            let mut bits: u32 = 0;
            for field in path.split('.') {
                let mut left = MAX_MEMBERS;
                let (offset, type_id) = self.member(within, field, 0, &mut left)?;
                bits = bits.checked_add(offset)?;
                within = type_id;
            }
            Some(bits)
        };
        bits()
            .map(|bits| bits / 8)
            .ok_or_else(|| BtfError::NoField {
                structure: structure.to_owned(),
                field: path.to_owned(),
            })
    }

    /// A field's offset in bits, and its type; `left` is how many members may yet be
    /// looked at.
    fn member(&self, id: u32, field: &str, depth: u32, left: &mut u32) -> Option<(u32, u32)> {
        let found = self.types.get(id as usize)?;
        if depth > MAX_DEPTH {
            return None;
        }
        match found.kind {
            KIND_STRUCT | KIND_UNION => found.members.iter().find_map(|member| {
                *left = left.checked_sub(1)?;
                if member.name == field {
                    Some((member.bit_offset, member.type_id))
                } else if member.name.is_empty() {
                    let (offset, type_id) = self.member(member.type_id, field, depth + 1, left)?;
                    Some((offset.checked_add(member.bit_offset)?, type_id))
                } else {
                    None
                }
            }),
            KIND_TYPEDEF | KIND_VOLATILE | KIND_CONST => {
                self.member(found.target, field, depth + 1, left)
            }
            _ => None,
        }
    }
}

/// Little-endian words of a byte slice.
struct Words<'a> {
    data: &'a [u8],
    at: usize,
}

impl Words<'_> {
    fn u16_at(&self, at: usize) -> Result<u16, BtfError> {
        match self.data.get(at..at + 2) {
            Some(&[a, b]) => Ok(u16::from_le_bytes([a, b])),
            _ => Err(BtfError::Malformed("data ends early")),
        }
    }

    fn u32_at(&self, at: usize) -> Result<u32, BtfError> {
        match self.data.get(at..at + 4) {
            Some(&[a, b, c, d]) => Ok(u32::from_le_bytes([a, b, c, d])),
            _ => Err(BtfError::Malformed("data ends early")),
        }
    }

    fn next(&mut self) -> Result<u32, BtfError> {
        let word = self.u32_at(self.at)?;
        self.at += 4;
        Ok(word)
    }

    fn skip(&mut self, words: usize) -> Result<(), BtfError> {
        self.at += 4 * words;
        if self.at > self.data.len() {
            return Err(BtfError::Malformed("data ends early"));
        }
        Ok(())
    }
}

fn string(strings: &[u8], offset: u32) -> Result<&str, BtfError> {
    let rest = strings
        .get(offset as usize..)
        .ok_or(BtfError::Malformed("a name outside the strings"))?;
    let end = rest
        .iter()
        .take(MAX_NAME)
        .position(|byte| *byte == 0)
        .ok_or(BtfError::Malformed(
            "a name without end, or longer than any",
        ))?;
    std::str::from_utf8(&rest[..end]).map_err(|_| BtfError::Malformed("a name that is not text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// BTF with `struct outer { int a; union { long b; }; inner_t c; }`, where
    /// `typedef struct { int a; } inner_t`, and a function `f`.
    fn sample() -> Vec<u8> {
        let strings = b"\0outer\0a\0b\0f\0int\0c\0inner_t\0";
        let types: Vec<u32> = [
            [13, 1 << 24, 4].as_slice(),
            &[32],                                                  // 1: int
            &[0, (5 << 24) | 1, 8, 9, 1, 0],                        // 2: union { b }
            &[1, (4 << 24) | 3, 24, 7, 1, 0, 0, 2, 64, 17, 6, 128], // 3: struct outer
            &[11, 12 << 24, 5],                                     // 4: func f
            &[0, (13 << 24) | 2, 0, 0, 1, 0, 1],                    // 5: its prototype, two ints
            &[19, 8 << 24, 7],                                      // 6: typedef inner_t
            &[0, (4 << 24) | 1, 8, 7, 1, 32],                       // 7: struct { a }
        ]
        .concat();
        built(&types, strings)
    }

    #[test]
    fn finds_fields_also_in_anonymous_members() {
        let btf = Btf::parse(&sample()).unwrap();
        assert_eq!(btf.offset_of("outer", "a").unwrap(), 0);
        assert_eq!(btf.offset_of("outer", "b").unwrap(), 8);
        assert!(btf.has_function("f"));
        assert!(!btf.has_function("outer"));
        assert_eq!(btf.parameters("f"), Some(2));
        assert_eq!(btf.offset_of("outer", "c.a").unwrap(), 20);
        let error = btf.offset_of("outer", "a.d").unwrap_err().to_string();
        assert_eq!(error, "this kernel's struct outer has no field a.d");
    }

    #[test]
    fn damaged_data_is_an_error_and_never_a_panic() {
        let good = sample();
        for cut in 0..good.len() {
            let _ = Btf::parse(&good[..cut]);
        }
        for at in 0..good.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut bad = good.clone();
                bad[at] = value;
                let _ = Btf::parse(&bad).map(|btf| btf.offset_of("outer", "b"));
            }
        }
        assert!(Btf::parse(b"no BTF at all").is_err());
    }

    /// BTF of these words of types and these strings.
    fn built(types: &[u32], strings: &[u8]) -> Vec<u8> {
        let mut data = Vec::new();
        data.extend(MAGIC.to_le_bytes());
        data.extend([1, 0]);
        let length = 4 * types.len();
        for word in [24, 0, length, length, strings.len()] {
            data.extend((word as u32).to_le_bytes());
        }
        data.extend(types.iter().flat_map(|word| word.to_le_bytes()));
        data.extend(strings);
        data
    }

    #[test]
    fn a_structure_that_is_a_thousandfold_member_of_itself_ends_the_search() {
        let mut types = vec![1, (4 << 24) | 1000, 8];
        types.extend([0, 1, 0].repeat(1000));
        let btf = Btf::parse(&built(&types, b"\0outer\0")).unwrap();
        assert!(btf.offset_of("outer", "x").is_err());
    }

    #[test]
    fn a_name_of_megabytes_is_refused() {
        let mut strings = b"\0outer".to_vec();
        strings.resize(4 << 20, b'x');
        strings.push(0);
        assert!(Btf::parse(&built(&[1, 4 << 24, 8], &strings)).is_err());
    }
}
