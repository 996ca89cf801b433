//! Pickle's stack machine, restricted to what files of tensors need. It builds plain values and never calls
//! anything.
//!
//! Opcodes: CPython's `Lib/pickletools.py`, protocols 0 to 5. Values are in one list and refer to each other
//! by index, so that neither depth nor cycles matter, and every opcode adds at most a few of them: memory is
//! bounded by a multiple of the pickle's length.

use std::collections::HashMap;

use byteorder::{ByteOrder, LittleEndian};

use super::error::PickleProblem;
use super::globals::{self, Global};
use super::limits::{MAX_LEN, MAX_MARKS, MAX_VALUES, at_most};
use super::values::{Id, Value, Values};

/// Runs the pickle at the start of `bytes`. Returns its values, the index of its result, and its length.
pub(super) fn run(bytes: &[u8]) -> Result<(Values<'_>, Id, usize), PickleProblem> {
    let pickle = &bytes[..bytes.len().min(MAX_LEN)];
    let mut machine = Machine {
        values: Values { pickle, values: Vec::new() },
        at: 0,
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        copied: 0,
        names: 0,
    };
    loop {
        let start = machine.at;
        match machine.step() {
            Ok(None) => {}
            Ok(Some(id)) => return Ok((machine.values, id, machine.at)),
            Err(Stop::End) if bytes.len() > MAX_LEN => return Err(PickleProblem::TooLong { limit: MAX_LEN }),
            Err(Stop::End) => {
                let len = bytes.len() as u64;
                return Err(PickleProblem::Truncated { what: "the pickle", end: len + 1, len });
            }
            Err(Stop::Reason(reason)) => return Err(PickleProblem::Malformed { at: start, reason }),
            Err(Stop::Problem(problem)) => return Err(problem),
        }
    }
}

/// Why an opcode cannot be executed.
enum Stop {
    End,
    Reason(&'static str),
    Problem(PickleProblem),
}

impl From<PickleProblem> for Stop {
    fn from(problem: PickleProblem) -> Stop {
        Stop::Problem(problem)
    }
}

struct Machine<'a> {
    values: Values<'a>,
    at: usize,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: HashMap<u64, Id>,
    /// Entries of lists that were looked at to make dictionaries: one list may be asked for a million times.
    copied: usize,
    /// Bytes of names of globals.
    names: usize,
}

impl Machine<'_> {
    /// Executes one opcode; returns the pickle's result at its end.
    fn step(&mut self) -> Result<Option<Id>, Stop> {
        let at = self.at;
        let code = self.byte()?;
        match code {
            b'.' => return self.pop().map(Some),
            b'(' => {
                at_most(self.marks.len(), MAX_MARKS, "open marks")?;
                self.marks.push(self.stack.len());
            }
            b'0' => {
                // If there is nothing above the last mark, the mark is popped.
                if self.marks.last() == Some(&self.stack.len()) {
                    self.marks.pop();
                } else {
                    self.pop()?;
                }
            }
            b'1' => drop(self.pop_to_mark()?),
            b'2' => {
                let top = *self.stack.last().ok_or(Stop::Reason("the stack has too few values"))?;
                self.stack.push(top);
            }
            0x80 => {
                self.byte()?;
            }
            0x95 => {
                self.take(8)?;
            }
            b'p' | b'q' | b'r' | 0x94 | b'g' | b'h' | b'j' => self.memorise(code)?,
            b'c' | 0x93 | b'R' | 0x81 | 0x92 | b'b' | b'i' | b'o' | b'P' | b'Q' => self.object(code)?,
            b')'
            | b't'
            | 0x85..=0x87
            | b']'
            | b'l'
            | b'a'
            | b'e'
            | b'}'
            | b'd'
            | b's'
            | b'u'
            | 0x8f..=0x91 => {
                self.container(code)?;
            }
            _ => {
                let value = self.constant(code)?;
                let value = value.ok_or(Stop::Problem(PickleProblem::Opcode { code, at }))?;
                self.push(value)?;
            }
        }
        Ok(None)
    }

    /// Opcodes that push a value.
    fn constant(&mut self, code: u8) -> Result<Option<Value>, Stop> {
        Ok(Some(match code {
            b'N' => Value::None,
            0x88 | 0x89 => Value::Other,
            b'K' => Value::Int(i64::from(self.byte()?)),
            b'M' => Value::Int(i64::from(LittleEndian::read_u16(self.take(2)?))),
            b'J' => Value::Int(i64::from(LittleEndian::read_i32(self.take(4)?))),
            b'G' => {
                self.take(8)?;
                Value::Other
            }
            b'I' => match self.line()? {
                "00" | "01" => Value::Other,
                line => Value::Int(line.parse().map_err(|_| Stop::Reason("expected a number"))?),
            },
            b'L' => self.line()?.trim_end_matches('L').parse().map_or(Value::Other, Value::Int),
            b'F' => {
                self.line()?;
                Value::Other
            }
            0x8a => {
                let len = usize::from(self.byte()?);
                long(self.take(len)?)
            }
            0x8b => {
                let len = self.length(4)?;
                long(self.take(len)?)
            }
            b'U' | 0x8c => self.text(1)?,
            b'T' | b'X' => self.text(4)?,
            0x8d => self.text(8)?,
            b'S' | b'V' => {
                let begin = self.at;
                let line = self.line()?;
                let quotes: &[char] = if code == b'S' { &['\'', '"'] } else { &[] };
                let start = begin + line.len() - line.trim_start_matches(quotes).len();
                let len = line.trim_matches(quotes).len();
                Value::Text(start..start + len)
            }
            b'C' | b'B' | 0x8e | 0x96 => {
                let width = match code {
                    b'C' => 1,
                    b'B' => 4,
                    _ => 8,
                };
                let len = self.length(width)?;
                self.take(len)?;
                Value::Other
            }
            _ => return Ok(None),
        }))
    }

    /// Opcodes that combine several values into one.
    fn container(&mut self, code: u8) -> Result<(), Stop> {
        match code {
            b')' => self.push(Value::Tuple(Vec::new()))?,
            b't' => {
                let members = self.pop_to_mark()?;
                self.push(Value::Tuple(members))?;
            }
            0x85..=0x87 => {
                let count = usize::from(code - 0x84);
                let from = self.stack.len().checked_sub(count).filter(|from| *from >= self.floor());
                let members = self.stack.split_off(from.ok_or(Stop::Reason("a tuple has too few values"))?);
                self.push(Value::Tuple(members))?;
            }
            b']' | 0x8f => self.push(Value::List(Vec::new()))?,
            b'l' | 0x91 => {
                let members = self.pop_to_mark()?;
                self.push(Value::List(members))?;
            }
            b'a' => {
                let member = self.pop()?;
                self.extend_list(vec![member])?;
            }
            b'e' | 0x90 => {
                let members = self.pop_to_mark()?;
                self.extend_list(members)?;
            }
            b'}' => self.push(Value::Dict(Vec::new()))?,
            b'd' => {
                let pairs = pairs(&self.pop_to_mark()?)?;
                self.push(Value::Dict(pairs))?;
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.extend_dict(vec![(key, value)])?;
            }
            _ => {
                let pairs = pairs(&self.pop_to_mark()?)?;
                self.extend_dict(pairs)?;
            }
        }
        Ok(())
    }

    /// Opcodes that name, create or change objects.
    fn object(&mut self, code: u8) -> Result<(), Stop> {
        match code {
            b'c' => {
                let module = self.line()?.to_owned();
                let name = self.line()?.to_owned();
                let class = self.global(&module, &name)?;
                self.push(Value::Global(class))?;
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let [module, name] = [module, name].map(|id| self.values.text(id).map(str::to_owned));
                let (Some(module), Some(name)) = (module, name) else {
                    return Err(Stop::Reason("the name of a global is not text"));
                };
                let class = self.global(&module, &name)?;
                self.push(Value::Global(class))?;
            }
            b'R' | 0x81 => {
                let args = self.pop()?;
                let callable = self.pop()?;
                self.call(callable, args)?;
            }
            0x92 => {
                self.pop()?;
                let args = self.pop()?;
                let callable = self.pop()?;
                self.call(callable, args)?;
            }
            b'i' => {
                let module = self.line()?.to_owned();
                let name = self.line()?.to_owned();
                let args = self.pop_to_mark()?;
                let args = self.add(Value::Tuple(args))?;
                let class = self.global(&module, &name)?;
                let class = self.add(Value::Global(class))?;
                self.call(class, args)?;
            }
            b'o' => {
                let mut args = self.pop_to_mark()?;
                if args.is_empty() {
                    return Err(Stop::Reason("an object has no class"));
                }
                let class = args.remove(0);
                let args = self.add(Value::Tuple(args))?;
                self.call(class, args)?;
            }
            b'b' => {
                let state = self.pop()?;
                let object = *self.stack.last().ok_or(Stop::Reason("the stack has too few values"))?;
                if let Value::Object { state: place, .. } = &mut self.values.values[object.0 as usize] {
                    *place = Some(state);
                }
            }
            b'Q' => {
                let words = self.pop()?;
                self.push(Value::Persistent(words))?;
            }
            _ => return Err(Stop::Reason("a persistent id is a text, which no checkpoint needs")),
        }
        Ok(())
    }

    /// Opcodes that store a value in the memo, or read it.
    fn memorise(&mut self, code: u8) -> Result<(), Stop> {
        let key = match code {
            b'p' | b'g' => self.line()?.parse().map_err(|_| Stop::Reason("expected a number"))?,
            b'q' | b'h' => u64::from(self.byte()?),
            b'r' | b'j' => u64::from(LittleEndian::read_u32(self.take(4)?)),
            _ => self.memo.len() as u64,
        };
        if matches!(code, b'g' | b'h' | b'j') {
            let id = *self
                .memo
                .get(&key)
                .ok_or(Stop::Reason("an entry of the memo is read before it is stored"))?;
            self.stack.push(id);
        } else {
            let top = *self.stack.last().ok_or(Stop::Reason("the stack has too few values"))?;
            self.memo.insert(key, top);
            at_most(self.memo.len(), MAX_VALUES, "entries of the memo")?;
        }
        Ok(())
    }

    /// Records a call of `callable`, which must be a global that is known to be harmless. Nothing is actually
    /// called.
    fn call(&mut self, callable: Id, args: Id) -> Result<(), Stop> {
        let Value::Global(class) = self.values.get(callable) else {
            return Err(Stop::Reason("the called value is not a global"));
        };
        if !globals::is_harmless(class) {
            return Err(Stop::Problem(PickleProblem::Call(class.to_string())));
        }
        let class = class.clone();
        if globals::is_dictionary(&class) {
            let pairs = self.pairs_of(args)?;
            self.push(Value::Dict(pairs))
        } else {
            self.push(Value::Object { class, args, state: None })
        }
    }

    /// The pairs of a dictionary that is constructed from `args`: a list of pairs, or nothing.
    fn pairs_of(&mut self, args: Id) -> Result<Vec<(Id, Id)>, Stop> {
        let members = self.values.members(args).unwrap_or_default();
        let lists = || members.iter().filter_map(|&member| self.values.members(member));
        self.copied += members.len() + lists().map(<[Id]>::len).sum::<usize>();
        at_most(self.copied, MAX_VALUES, "entries of dictionaries")?;
        let rows = lists().flatten();
        let pair = |&row: &Id| match self.values.members(row)? {
            &[key, value] => Some((key, value)),
            _ => None,
        };
        Ok(rows.filter_map(pair).collect())
    }

    fn extend_list(&mut self, members: Vec<Id>) -> Result<(), Stop> {
        let list = *self.stack.last().ok_or(Stop::Reason("the stack has too few values"))?;
        match &mut self.values.values[list.0 as usize] {
            Value::List(all) => all.extend(members),
            // Classes that are lists; they are ignored.
            Value::Object { .. } => {}
            _ => return Err(Stop::Reason("an item is added to a value that is not a list")),
        }
        Ok(())
    }

    fn extend_dict(&mut self, pairs: Vec<(Id, Id)>) -> Result<(), Stop> {
        let dict = *self.stack.last().ok_or(Stop::Reason("the stack has too few values"))?;
        match &mut self.values.values[dict.0 as usize] {
            Value::Dict(all) => all.extend(pairs),
            Value::Object { .. } => {}
            _ => return Err(Stop::Reason("an item is added to a value that is not a dictionary")),
        }
        Ok(())
    }

    /// A global by its name, which may be a text that the pickle has once and refers to often.
    fn global(&mut self, module: &str, name: &str) -> Result<Global, Stop> {
        self.names += module.len() + name.len();
        at_most(self.names, MAX_LEN, "bytes of names")?;
        Ok(Global::new(module, name))
    }

    fn add(&mut self, value: Value) -> Result<Id, Stop> {
        at_most(self.values.values.len(), MAX_VALUES, "values")?;
        self.values.values.push(value);
        Ok(Id((self.values.values.len() - 1) as u32))
    }

    fn push(&mut self, value: Value) -> Result<(), Stop> {
        let id = self.add(value)?;
        self.stack.push(id);
        Ok(())
    }

    /// Height of the stack at the last mark.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn pop(&mut self) -> Result<Id, Stop> {
        match self.stack.len() > self.floor() {
            true => self.stack.pop().ok_or(Stop::Reason("the stack has too few values")),
            false => Err(Stop::Reason("the stack has too few values")),
        }
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Id>, Stop> {
        let mark = self.marks.pop().ok_or(Stop::Reason("the stack has no mark"))?;
        Ok(self.stack.split_off(mark))
    }

    fn byte(&mut self) -> Result<u8, Stop> {
        Ok(self.take(1)?[0])
    }

    fn take(&mut self, len: usize) -> Result<&[u8], Stop> {
        let end = self.at.checked_add(len).ok_or(Stop::End)?;
        let bytes = self.values.pickle.get(self.at..end).ok_or(Stop::End)?;
        self.at = end;
        Ok(bytes)
    }

    /// A length in `width` bytes.
    fn length(&mut self, width: usize) -> Result<usize, Stop> {
        let length = LittleEndian::read_uint(self.take(width)?, width);
        usize::try_from(length).map_err(|_| Stop::End)
    }

    /// A text, preceded by its length in `width` bytes.
    fn text(&mut self, width: usize) -> Result<Value, Stop> {
        let len = self.length(width)?;
        let bytes = self.take(len)?;
        let is_text = std::str::from_utf8(bytes).is_ok();
        // In Python 2 this is bytes.
        Ok(if is_text { Value::Text(self.at - len..self.at) } else { Value::Other })
    }

    /// The rest of the line, including its end.
    fn line(&mut self) -> Result<&str, Stop> {
        let rest = &self.values.pickle[self.at..];
        let len = rest.iter().position(|&byte| byte == b'\n').ok_or(Stop::End)?;
        self.at += len + 1;
        std::str::from_utf8(&rest[..len]).map_err(|_| Stop::Reason("a line is not valid UTF-8"))
    }
}

fn pairs(members: &[Id]) -> Result<Vec<(Id, Id)>, Stop> {
    match members.len().is_multiple_of(2) {
        true => Ok(members.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect()),
        false => Err(Stop::Reason("a key has no value")),
    }
}

/// A number of any length, little endian in two's complement.
fn long(bytes: &[u8]) -> Value {
    match bytes.len() {
        0 => Value::Int(0),
        len @ 1..=8 => Value::Int(LittleEndian::read_int(bytes, len)),
        _ => Value::Other,
    }
}
