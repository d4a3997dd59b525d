//! pytorch_model.bin: the zip archives that `torch.save` writes since PyTorch 1.6.
//!
//! Their index is a pickle, and a pickle is a program. This reads only what a dictionary of tensors needs: anything
//! that names another function is refused, nothing is ever called, and values that are no tensors are dropped.

use super::{Checkpoint, Stored, from_bf16, from_f16, from_f32};
use crate::model::ModelError;
use crate::model::source::WeightBytes;
use std::collections::HashMap;
use std::io::{Cursor, Read};
use std::ops::Range;
use std::sync::Arc;

/// An index of a model with a million tensors would be this large.
const LARGEST_INDEX: u64 = 256 << 20;
/// Tuples in tuples: a tensor's arguments need three.
const DEEPEST: usize = 8;
/// A tensor's dimensions at most.
const MOST_DIMENSIONS: usize = 8;
/// Tied weights are views of one storage. All views together are at most this often the file: more is an archive that
/// unfolds to what no memory holds.
const MOST_UNFOLDING: usize = 4;

/// One or several archives.
pub struct PickleCheckpoint {
    files: Vec<WeightBytes>,
    tensors: HashMap<Arc<str>, Entry>,
}

struct Entry {
    file: usize,
    /// The storage's bytes in the file.
    bytes: Range<usize>,
    tensor: Tensor,
}

/// A view of a storage.
#[derive(Debug, Clone)]
struct Tensor {
    storage: Storage,
    offset: usize,
    shape: Vec<usize>,
    strides: Vec<usize>,
}

#[derive(Debug, Clone)]
struct Storage {
    /// e.g. `FloatStorage`
    class: Arc<str>,
    key: Arc<str>,
}

impl Storage {
    /// Bytes a value takes, of the types that are read.
    fn value_size(&self) -> usize {
        if &*self.class == "FloatStorage" { 4 } else { 2 }
    }
}

impl PickleCheckpoint {
    /// Reads the archives' indices. `files` are names for errors, and bytes.
    pub fn new(files: Vec<(String, WeightBytes)>) -> Result<Self, ModelError> {
        let (mut archives, mut tensors) = (Vec::with_capacity(files.len()), HashMap::new());
        for (name, bytes) in files {
            let entries = read_archive(&bytes).map_err(|reason| ModelError::invalid(&name, reason))?;
            for (tensor_name, bytes, tensor) in entries {
                tensors.entry(tensor_name).or_insert(Entry {
                    file: archives.len(),
                    bytes,
                    tensor,
                });
            }
            archives.push(bytes);
        }
        Ok(Self {
            files: archives,
            tensors,
        })
    }
}

/// Reads a storage's bytes as f32.
type Reader = fn(&[u8]) -> Vec<f32>;

impl Checkpoint for PickleCheckpoint {
    fn shape(&self, name: &str) -> Option<&[usize]> {
        Some(&self.tensors.get(name)?.tensor.shape)
    }

    fn storage(&self, name: &str) -> Stored {
        let class = self.tensors.get(name).map(|entry| &*entry.tensor.storage.class);
        match class {
            Some("HalfStorage") => Stored::F16,
            Some("BFloat16Storage") => Stored::Bf16,
            _ => Stored::F32,
        }
    }

    fn values(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        let entry = self
            .tensors
            .get(name)
            .ok_or_else(|| ModelError::MissingTensor(name.into()))?;
        let data = &self.files[entry.file][entry.bytes.clone()];
        let tensor = &entry.tensor;
        let size = tensor.storage.value_size();
        let read: Reader = match &*tensor.storage.class {
            "FloatStorage" => from_f32,
            "HalfStorage" => from_f16,
            "BFloat16Storage" => from_bf16,
            other => {
                return Err(ModelError::Type {
                    name: name.into(),
                    found: other.into(),
                });
            }
        };
        let outside = || {
            ModelError::invalid(
                "pytorch_model.bin",
                format!("the tensor `{name}` lies outside its data"),
            )
        };
        let count = tensor.len().ok_or_else(outside)?;
        if count == 0 {
            return Ok(Vec::new());
        }
        let last = tensor.last_index().ok_or_else(outside)?;
        if last >= data.len() / size {
            return Err(outside());
        }
        let values = read(&data[tensor.offset * size..(last + 1) * size]);
        Ok(tensor.gather(&values, count))
    }

    fn names(&self) -> Vec<&str> {
        self.tensors.keys().map(|name| &**name).collect()
    }
}

impl Tensor {
    fn len(&self) -> Option<usize> {
        self.shape
            .iter()
            .try_fold(1usize, |count, size| count.checked_mul(*size))
    }

    /// The highest index into the storage, of a tensor that has values.
    fn last_index(&self) -> Option<usize> {
        let mut last = self.offset;
        for (size, stride) in self.shape.iter().zip(&self.strides) {
            last = last.checked_add((size - 1).checked_mul(*stride)?)?;
        }
        Some(last)
    }

    /// The values in row-major order, from the storage's values at the offset on.
    fn gather(&self, values: &[f32], count: usize) -> Vec<f32> {
        let mut row_major = vec![1; self.shape.len()];
        for axis in (0..self.shape.len().saturating_sub(1)).rev() {
            row_major[axis] = row_major[axis + 1] * self.shape[axis + 1];
        }
        let same = |axis: usize| self.shape[axis] == 1 || self.strides[axis] == row_major[axis];
        if values.len() >= count && (0..self.shape.len()).all(same) {
            return values[..count].to_vec();
        }
        let place = |index: usize| -> usize {
            (0..self.shape.len())
                .map(|axis| index / row_major[axis] % self.shape[axis] * self.strides[axis])
                .sum()
        };
        (0..count).map(|index| values[place(index)]).collect()
    }
}

/// A tensor of an archive: name, the storage's place in the file, the view.
type Found = (Arc<str>, Range<usize>, Tensor);

/// An archive's tensors.
fn read_archive(bytes: &[u8]) -> Result<Vec<Found>, String> {
    let legacy = "it is no zip archive: files of PyTorch before 1.6 are not read; load it with a newer one and save it \
                  again, as model.safetensors if you can";
    let mut archive = zip::ZipArchive::new(Cursor::new(bytes)).map_err(|_| legacy.to_string())?;
    let index = archive
        .file_names()
        .filter_map(|name| name.ok())
        .map(|name| name.into_owned())
        .find(|name| name.ends_with("/data.pkl"))
        .ok_or("it holds no data.pkl, so PyTorch did not write it")?;
    let folder = index.trim_end_matches("data.pkl").to_string();
    let mut program = Vec::new();
    archive
        .by_name(&index)
        .map_err(|error| error.to_string())?
        .take(LARGEST_INDEX)
        .read_to_end(&mut program)
        .map_err(|error| error.to_string())?;
    let tensors = Unpickler::new(&program).run()?;
    let mut places: HashMap<Arc<str>, Range<usize>> = HashMap::new();
    let mut entries = Vec::with_capacity(tensors.len());
    let mut unfolded = 0usize;
    for (name, tensor) in tensors {
        let len = tensor
            .len()
            .and_then(|len| len.checked_mul(tensor.storage.value_size()));
        unfolded = unfolded.saturating_add(len.unwrap_or(usize::MAX));
        if unfolded / MOST_UNFOLDING > bytes.len() {
            return Err("its tensors say to be many times larger than the file".into());
        }
        let key = &tensor.storage.key;
        let place = match places.get(key) {
            Some(place) => place.clone(),
            None => {
                let file = archive
                    .by_name(&format!("{folder}data/{key}"))
                    .map_err(|_| format!("the data of `{name}` is missing"))?;
                let start = file
                    .data_start()
                    .ok_or_else(|| format!("the data of `{name}` has no place"))? as usize;
                let end = start.saturating_add(file.size() as usize);
                if file.compression() != zip::CompressionMethod::Stored || end > bytes.len() {
                    return Err(format!("the data of `{name}` is compressed or cut off"));
                }
                places.insert(key.clone(), start..end);
                start..end
            }
        };
        entries.push((name, place, tensor));
    }
    Ok(entries)
}

/// What the program's stack may hold. Shared parts are shared, so memory stays in proportion to the program.
#[derive(Debug, Clone)]
enum Object {
    /// Something that matters to nobody.
    Opaque,
    Mark,
    Int(i64),
    Text(Arc<str>),
    Tuple(Arc<Vec<Object>>, usize),
    /// Index into the program's dictionaries.
    Dict(usize),
    Global(Arc<str>),
    Storage(Storage),
    Tensor(Arc<Tensor>),
}

impl Object {
    fn depth(&self) -> usize {
        match self {
            Self::Tuple(_, depth) => *depth,
            _ => 0,
        }
    }

    fn size(&self) -> Option<usize> {
        match self {
            Self::Int(value) => usize::try_from(*value).ok(),
            _ => None,
        }
    }

    fn sizes(&self) -> Option<Vec<usize>> {
        match self {
            Self::Tuple(items, _) if items.len() <= MOST_DIMENSIONS => items.iter().map(Self::size).collect(),
            _ => None,
        }
    }
}

struct Unpickler<'a> {
    program: &'a [u8],
    stack: Vec<Object>,
    memo: HashMap<u32, Object>,
    /// Each dictionary's tensors, by name.
    dictionaries: Vec<Vec<(Arc<str>, Arc<Tensor>)>>,
}

type Step<T> = Result<T, String>;

impl<'a> Unpickler<'a> {
    fn new(program: &'a [u8]) -> Self {
        Self {
            program,
            stack: Vec::new(),
            memo: HashMap::new(),
            dictionaries: Vec::new(),
        }
    }

    /// Runs to the end; the result must be a dictionary.
    fn run(mut self) -> Step<Vec<(Arc<str>, Tensor)>> {
        while self.step()? {}
        match self.stack.pop() {
            Some(Object::Dict(index)) => Ok(std::mem::take(&mut self.dictionaries[index])
                .into_iter()
                .map(|(name, tensor)| (name, (*tensor).clone()))
                .collect()),
            _ => Err("it holds something else than a dictionary of tensors".into()),
        }
    }

    fn take(&mut self, count: usize) -> Step<&'a [u8]> {
        if count > self.program.len() {
            return Err("its index ends in the middle".into());
        }
        let (taken, rest) = self.program.split_at(count);
        self.program = rest;
        Ok(taken)
    }

    fn number(&mut self, bytes: usize) -> Step<u64> {
        Ok(self
            .take(bytes)?
            .iter()
            .rev()
            .fold(0, |value, byte| value << 8 | *byte as u64))
    }

    fn line(&mut self) -> Step<&'a str> {
        let end = self.program.iter().position(|byte| *byte == b'\n');
        let line = self.take(end.ok_or("its index ends in the middle")? + 1)?;
        std::str::from_utf8(&line[..line.len() - 1]).map_err(|_| "its index is damaged".into())
    }

    fn text(&mut self, len: u64) -> Step<()> {
        let bytes = self.take(usize::try_from(len).unwrap_or(usize::MAX))?;
        let text = std::str::from_utf8(bytes).map_err(|_| "its index is damaged")?;
        self.stack.push(Object::Text(text.into()));
        Ok(())
    }

    fn pop(&mut self) -> Step<Object> {
        self.stack.pop().ok_or_else(|| "its index is damaged".into())
    }

    fn pop_to_mark(&mut self) -> Step<Vec<Object>> {
        let mark = self
            .stack
            .iter()
            .rposition(|object| matches!(object, Object::Mark))
            .ok_or("its index is damaged")?;
        let items = self.stack.split_off(mark + 1);
        self.stack.pop();
        Ok(items)
    }

    fn push_tuple(&mut self, items: Vec<Object>) -> Step<()> {
        let depth = 1 + items.iter().map(Object::depth).max().unwrap_or(0);
        if depth > DEEPEST {
            return Err("its index is nested too deeply".into());
        }
        self.stack.push(Object::Tuple(Arc::new(items), depth));
        Ok(())
    }

    fn push_dictionary(&mut self) {
        self.stack.push(Object::Dict(self.dictionaries.len()));
        self.dictionaries.push(Vec::new());
    }

    /// Of a dictionary's items, those that are tensors.
    fn fill_dictionary(&mut self, items: Vec<Object>) -> Step<()> {
        let Some(Object::Dict(index)) = self.stack.last() else {
            return Ok(());
        };
        let dictionary = &mut self.dictionaries[*index];
        for pair in items.chunks_exact(2) {
            if let [Object::Text(name), Object::Tensor(tensor)] = pair {
                dictionary.push((name.clone(), tensor.clone()));
            }
        }
        Ok(())
    }

    /// A global name: only those that weights are made of.
    fn push_global(&mut self, name: &str) -> Step<()> {
        let known = [
            "collections OrderedDict",
            "torch._utils _rebuild_tensor_v2",
            "torch._utils _rebuild_parameter",
        ];
        let storage = name.strip_prefix("torch ").is_some_and(|class| {
            class.ends_with("Storage") && class.chars().all(|letter| letter.is_ascii_alphanumeric())
        });
        if !storage && !known.contains(&name) {
            let name: String = name.replace(' ', ".").chars().take(80).collect();
            return Err(format!(
                "it asks for `{name}`, which weights have no need of and which may be meant to run code; nothing was run"
            ));
        }
        self.stack.push(Object::Global(name.into()));
        Ok(())
    }

    fn reduce(&mut self) -> Step<()> {
        let (arguments, callable) = (self.pop()?, self.pop()?);
        let (Object::Global(name), Object::Tuple(arguments, _)) = (callable, arguments) else {
            return Err("its index is damaged".into());
        };
        match &*name {
            "collections OrderedDict" => self.push_dictionary(),
            "torch._utils _rebuild_parameter" => {
                let tensor = arguments.first().cloned().unwrap_or(Object::Opaque);
                self.stack.push(tensor);
            }
            "torch._utils _rebuild_tensor_v2" => {
                let tensor = match &arguments[..] {
                    [Object::Storage(storage), offset, shape, strides, ..] => Tensor {
                        storage: storage.clone(),
                        offset: offset.size().ok_or("a tensor has no offset")?,
                        shape: shape.sizes().ok_or("a tensor has no shape")?,
                        strides: strides.sizes().ok_or("a tensor has no strides")?,
                    },
                    _ => return Err("a tensor is damaged".into()),
                };
                if tensor.shape.len() != tensor.strides.len() {
                    return Err("a tensor is damaged".into());
                }
                self.stack.push(Object::Tensor(Arc::new(tensor)));
            }
            _ => return Err("its index is damaged".into()),
        }
        Ok(())
    }

    fn persistent(&mut self) -> Step<()> {
        let id = self.pop()?;
        let Object::Tuple(parts, _) = id else {
            return Err("its index is damaged".into());
        };
        match &parts[..] {
            [Object::Text(kind), Object::Global(class), Object::Text(key), ..] if &**kind == "storage" => {
                let class = class.strip_prefix("torch ").unwrap_or_default().into();
                self.stack.push(Object::Storage(Storage {
                    class,
                    key: key.clone(),
                }));
                Ok(())
            }
            _ => Err("its index is damaged".into()),
        }
    }

    fn memoise(&mut self, place: u32) -> Step<()> {
        let object = self.stack.last().ok_or("its index is damaged")?.clone();
        self.memo.insert(place, object);
        Ok(())
    }

    fn recall(&mut self, place: u32) -> Step<()> {
        let object = self.memo.get(&place).ok_or("its index is damaged")?.clone();
        self.stack.push(object);
        Ok(())
    }

    /// One instruction; false at the end. Letters as in Python's pickletools.
    fn step(&mut self) -> Step<bool> {
        let operation = self.take(1)?[0];
        match operation {
            b'.' => return Ok(false),
            0x80 => drop(self.take(1)?),
            0x95 => drop(self.take(8)?),
            b'(' => self.stack.push(Object::Mark),
            b'0' => drop(self.pop()?),
            b'N' | 0x88 | 0x89 => self.stack.push(Object::Opaque),
            b'G' => {
                self.take(8)?;
                self.stack.push(Object::Opaque);
            }
            b'K' | b'M' | b'J' => {
                let value = match operation {
                    b'K' => self.number(1)? as i64,
                    b'M' => self.number(2)? as i64,
                    _ => self.number(4)? as u32 as i32 as i64,
                };
                self.stack.push(Object::Int(value));
            }
            0x8a => {
                let count = self.number(1)? as usize;
                let bytes = self.take(count)?;
                let value = (count <= 8).then(|| {
                    let negative = bytes.last().is_some_and(|last| last & 0x80 != 0);
                    let start = if negative { -1i64 } else { 0 };
                    bytes.iter().rev().fold(start, |value, byte| value << 8 | *byte as i64)
                });
                self.stack.push(value.map_or(Object::Opaque, Object::Int));
            }
            b'X' => {
                let len = self.number(4)?;
                self.text(len)?;
            }
            0x8c => {
                let len = self.number(1)?;
                self.text(len)?;
            }
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.push_global(&format!("{module} {name}"))?;
            }
            0x93 => match (self.pop()?, self.pop()?) {
                (Object::Text(name), Object::Text(module)) => self.push_global(&format!("{module} {name}"))?,
                _ => return Err("its index is damaged".into()),
            },
            b'Q' => self.persistent()?,
            b'R' | 0x81 => self.reduce()?,
            b'b' => drop(self.pop()?),
            b')' => self.push_tuple(Vec::new())?,
            b't' => {
                let items = self.pop_to_mark()?;
                self.push_tuple(items)?;
            }
            0x85..=0x87 => {
                let count = (operation - 0x84) as usize;
                let from = self.stack.len().checked_sub(count).ok_or("its index is damaged")?;
                let items = self.stack.split_off(from);
                self.push_tuple(items)?;
            }
            b'}' => self.push_dictionary(),
            b'd' => {
                let items = self.pop_to_mark()?;
                self.push_dictionary();
                self.fill_dictionary(items)?;
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.fill_dictionary(vec![key, value])?;
            }
            b'u' => {
                let items = self.pop_to_mark()?;
                self.fill_dictionary(items)?;
            }
            b']' => self.stack.push(Object::Opaque),
            b'a' => drop(self.pop()?),
            b'e' | b'l' => {
                self.pop_to_mark()?;
                if operation == b'l' {
                    self.stack.push(Object::Opaque);
                }
            }
            b'q' => {
                let place = self.number(1)? as u32;
                self.memoise(place)?;
            }
            b'r' => {
                let place = self.number(4)? as u32;
                self.memoise(place)?;
            }
            0x94 => self.memoise(self.memo.len() as u32)?,
            b'h' => {
                let place = self.number(1)? as u32;
                self.recall(place)?;
            }
            b'j' => {
                let place = self.number(4)? as u32;
                self.recall(place)?;
            }
            other => {
                return Err(format!(
                    "its index has the instruction {other:#04x}, which weights have no need of"
                ));
            }
        }
        Ok(true)
    }
}
