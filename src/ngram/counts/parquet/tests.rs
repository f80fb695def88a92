//! Tests of tables from this program and from others, and of damaged ones.

use super::super::super::{Counter, Ending};
use super::*;
use parquet::column::writer::ColumnWriter;
use parquet::file::reader::SerializedFileReader;
use parquet::schema::types::SchemaDescriptor;
use proptest::prelude::*;

fn counted(order: usize, vocabulary: Vocabulary, documents: &[Vec<u32>]) -> Counts {
    let mut counter = Counter::new(order, vocabulary, &Memory::usual()).unwrap();
    counter.add(&[1], Ending::Complete).unwrap();
    documents.iter().for_each(|tokens| counter.add(tokens, Ending::Complete).unwrap());
    counter.finish().unwrap()
}

fn documents() -> impl Strategy<Value = Vec<Vec<u32>>> {
    prop::collection::vec(prop::collection::vec(prop_oneof![0u32..5, 0u32..200_000], 0..12), 0..8)
}

fn listing(counts: &Counts) -> Vec<(Vec<i64>, u64)> {
    let mut rows = Vec::new();
    let each = |ids: &[i64], count| {
        rows.push((ids.to_vec(), count));
        Ok(())
    };
    counts.for_each(each).unwrap();
    rows
}

/// Returns the bytes of the file of counts.
fn bytes(counts: &Counts) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    counts.save(&dir.path().join("counts")).unwrap();
    fs::read(dir.path().join("counts")).unwrap()
}

fn read(folder: &Path) -> Result<Counts> {
    Counts::read_parquet(folder, Vocabulary::default(), &Memory::usual())
}

fn message(folder: &Path) -> String {
    read(folder).err().expect("it is refused").to_string()
}

/// The values of a column with their levels. Without levels, every value is a row.
#[derive(Default)]
struct Values {
    values: Vec<i64>,
    definition: Vec<i16>,
    repetition: Vec<i16>,
}

impl From<&[i64]> for Values {
    fn from(values: &[i64]) -> Self {
        Self { values: values.to_vec(), ..Self::default() }
    }
}

impl Values {
    /// Makes a column of lists, none of them empty; `defined` is the definition level of a value.
    fn lists(lists: &[Vec<i64>], defined: i16) -> Self {
        let values = lists.concat();
        let repetition = lists.iter().flat_map(|list| (0..list.len()).map(|at| i16::from(at > 0))).collect();
        Self { definition: vec![defined; values.len()], values, repetition }
    }
}

/// Writes a file as another program might.
fn foreign(path: &Path, fields: &str, columns: &[Values], note: Option<(&str, &str)>) {
    let schema = Arc::new(parse_message_type(&format!("message schema {{ {fields} }}")).unwrap());
    let described = SchemaDescriptor::new(schema.clone());
    let note = note.map(|(key, value)| vec![KeyValue::new(key.to_owned(), value.to_owned())]);
    let properties = Arc::new(WriterProperties::builder().set_key_value_metadata(note).build());
    let mut writer = SerializedFileWriter::new(File::create(path).unwrap(), schema, properties).unwrap();
    let mut group = writer.next_row_group().unwrap();
    for (at, Values { values, definition, repetition }) in columns.iter().enumerate() {
        let mut column = group.next_column().unwrap().unwrap();
        let definition = (described.column(at).max_def_level() > 0).then_some(&definition[..]);
        let repetition = (described.column(at).max_rep_level() > 0).then_some(&repetition[..]);
        match column.untyped() {
            ColumnWriter::Int32ColumnWriter(column) => {
                let narrow: Vec<i32> = values.iter().map(|&value| value as i32).collect();
                column.write_batch(&narrow, definition, repetition).unwrap();
            }
            ColumnWriter::Int64ColumnWriter(column) => {
                column.write_batch(values, definition, repetition).unwrap();
            }
            ColumnWriter::DoubleColumnWriter(column) => {
                let wide: Vec<f64> = values.iter().map(|&value| value as f64).collect();
                column.write_batch(&wide, definition, repetition).unwrap();
            }
            _ => unreachable!("no other type is written here"),
        }
        column.close().unwrap();
    }
    group.close().unwrap();
    writer.close().unwrap();
}

/// Schemas that can be read, with the definition levels of a value in each column.
const FORMS: [(&str, [i16; 3]); 4] = [
    (
        "required int32 order; optional group ids (LIST) { repeated group list { optional int64 element; } }
         required int64 count;",
        [0, 3, 0],
    ),
    (
        "optional int64 order; required group ids (LIST) { repeated group list { optional int32 item; } }
         optional int32 count;",
        [1, 2, 1],
    ),
    (
        "optional int32 order; optional group ids (LIST) { repeated int64 array; } optional int64 count;
         optional int64 more;",
        [1, 2, 1],
    ),
    (
        "required int32 order (INTEGER(8,true)); optional group ids (LIST) { repeated group bag { required int64
         array_element (INTEGER(64,true)); } } required int64 count;",
        [0, 2, 0],
    ),
];

fn foreign_rows(path: &Path, form: usize, rows: &[(Vec<i64>, u64)]) {
    let (fields, defined) = FORMS[form];
    let flat =
        |values: Vec<i64>, defined| Values { definition: vec![defined; values.len()], values, ..Values::default() };
    let lists: Vec<Vec<i64>> = rows.iter().map(|(ids, _)| ids.clone()).collect();
    let mut columns = vec![
        flat(rows.iter().map(|(ids, _)| ids.len() as i64).collect(), defined[0]),
        Values::lists(&lists, defined[1]),
        flat(rows.iter().map(|&(_, count)| count as i64).collect(), defined[2]),
    ];
    if fields.contains("more") {
        columns.push(Values { definition: vec![0; rows.len()], ..Values::default() });
    }
    foreign(path, fields, &columns, None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_table_keeps_the_counts(order in 1usize..=6, documents in documents()) {
        let dir = tempfile::tempdir().unwrap();
        let vocabulary = Vocabulary { eos: vec![2], size: Some(200_000), ..Vocabulary::default() };
        let counts = counted(order, vocabulary.clone(), &documents);
        let folder = dir.path().join("table");
        let mut written = Vec::new();
        for _ in 0..2 {
            counts.write_parquet(&folder).unwrap();
            written.push(fs::read(folder.join("counts.parquet")).unwrap());
        }
        prop_assert!(written[0] == written[1]);
        let again = read(&folder).unwrap();
        prop_assert!(bytes(&again) == bytes(&counts));
        let given = Counts::read_parquet(&folder, vocabulary, &Memory::usual()).unwrap();
        prop_assert!(bytes(&given) == bytes(&counts));
    }

    /// As other programs write: several files, rows in any order, equal windows more than once, other types.
    #[test]
    fn rows_of_several_files_add_up(
        order in 1usize..=6,
        documents in documents(),
        forms in prop::collection::vec(0..FORMS.len(), 1..5),
        places in prop::collection::vec(any::<prop::sample::Index>(), 32),
    ) {
        let dir = tempfile::tempdir().unwrap();
        // A text as long as its order, and one window that occurs more than once.
        let documents = [documents, vec![vec![7; 8]; 3]].concat();
        let counts = counted(order, Vocabulary::default(), &documents);
        let mut parts = vec![Vec::new(); forms.len()];
        let mut places = places.iter().cycle();
        for (ids, mut count) in listing(&counts) {
            while count > 0 {
                let some = 1 + places.next().unwrap().index(count as usize) as u64;
                let part = &mut parts[places.next().unwrap().index(forms.len())];
                let at = places.next().unwrap().index(part.len() + 1);
                part.insert(at, (ids.clone(), some));
                count -= some;
            }
        }
        for (number, (part, &form)) in parts.iter().zip(&forms).enumerate() {
            foreign_rows(&dir.path().join(format!("part-{number}.snappy.parquet")), form, part);
        }
        fs::write(dir.path().join("_SUCCESS"), "").unwrap();
        fs::write(dir.path().join(".part-0.snappy.parquet.crc"), "crc").unwrap();
        prop_assert!(bytes(&read(dir.path()).unwrap()) == bytes(&counts));
    }

    #[test]
    fn damage_never_panics(at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>()) {
        let dir = tempfile::tempdir().unwrap();
        let counts = counted(3, Vocabulary::default(), &[vec![5, 6, 7, 5, 6], vec![200_000, 5]]);
        counts.write_parquet(dir.path()).unwrap();
        let path = dir.path().join("counts.parquet");
        let mut text = fs::read(&path).unwrap();
        let at = at.index(text.len());
        if cut { text.truncate(at) } else { text[at] = byte }
        fs::write(&path, &text).unwrap();
        if let Err(error) = read(dir.path()) {
            prop_assert!(error.to_string().contains("counts.parquet"), "{error}");
        }
    }
}

#[test]
fn the_table_has_the_rows_that_for_each_tells() {
    let dir = tempfile::tempdir().unwrap();
    let counts = counted(3, Vocabulary::default(), &[vec![5, 6, 7, 5, 6], vec![6]]);
    counts.write_parquet(dir.path()).unwrap();
    let reader = SerializedFileReader::new(File::open(dir.path().join("counts.parquet")).unwrap()).unwrap();
    let rows: Vec<String> = reader.into_iter().map(|row| row.unwrap().to_string()).collect();
    let expected = listing(&counts)
        .into_iter()
        .map(|(ids, count)| format!("{{order: {}, ids: {ids:?}, count: {count}}}", ids.len()));
    assert_eq!(rows, expected.collect::<Vec<_>>());
}

#[test]
fn a_text_too_short_for_its_order_keeps_it() {
    let dir = tempfile::tempdir().unwrap();
    let counts = counted(5, Vocabulary::default(), &[]);
    counts.write_parquet(dir.path()).unwrap();
    assert_eq!(read(dir.path()).unwrap().order(), 5);
}

#[test]
fn the_vocabulary_must_be_the_noted_one() {
    let dir = tempfile::tempdir().unwrap();
    let of = |eos| Vocabulary { eos: vec![eos], ..Vocabulary::default() };
    counted(2, of(9), &[]).write_parquet(dir.path()).unwrap();
    assert_eq!(read(dir.path()).unwrap().vocabulary(), &of(9));
    let refused = Counts::read_parquet(dir.path(), of(8), &Memory::usual()).err().unwrap().to_string();
    assert!(refused.contains("\"eos\":[9]") && refused.contains("\"eos\":[8]"), "{refused}");
    // Next to a file without a note, the noted vocabulary holds; next to a file with another note, none does.
    foreign_rows(&dir.path().join("z.parquet"), 0, &[(vec![3, 4], 1)]);
    assert_eq!(read(dir.path()).unwrap().vocabulary(), &of(9));
    let other = tempfile::tempdir().unwrap();
    counted(2, of(8), &[]).write_parquet(other.path()).unwrap();
    fs::copy(other.path().join("counts.parquet"), dir.path().join("other.parquet")).unwrap();
    let refused = message(dir.path());
    assert!(refused.contains("other.parquet") && refused.contains("cannot be added up"), "{refused}");
}

#[test]
fn special_ids_in_the_table_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    foreign_rows(&dir.path().join("a.parquet"), 0, &[(vec![3, 4], 1), (vec![3, 0], 1)]);
    for vocabulary in
        [Vocabulary { eos: vec![0], ..Vocabulary::default() }, Vocabulary { bos: Some(0), ..Vocabulary::default() }]
    {
        let refused = Counts::read_parquet(dir.path(), vocabulary, &Memory::usual()).err().unwrap().to_string();
        assert!(refused.contains("a.parquet: row 2: 0 is an end-of-text"), "{refused}");
    }
    assert!(read(dir.path()).is_ok());
}

#[test]
fn bad_rows_are_named() {
    let fields = FORMS[1].0;
    let refused = |orders: Values, ids: Values, counts: Values| {
        let dir = tempfile::tempdir().unwrap();
        foreign(&dir.path().join("bad.parquet"), fields, &[orders, ids, counts], None);
        let message = message(dir.path());
        assert!(message.contains("bad.parquet: row 2"), "{message}");
        message
    };
    let flat = |values: [i64; 2]| Values { values: values.to_vec(), definition: vec![1; 2], ..Values::default() };
    let null = || Values { values: vec![1], definition: vec![1, 0], ..Values::default() };
    let lists = |second: &[i64]| Values::lists(&[vec![-1, 5], second.to_vec()], 2);
    let good = || (flat([2, 2]), lists(&[5, -2]), flat([1, 1]));
    assert!(refused(null(), good().1, good().2).contains("order is null"));
    assert!(refused(good().0, good().1, null()).contains("count is null"));
    let element = Values { values: vec![-1, 5, 6], definition: vec![2, 2, 2, 1], repetition: vec![0, 1, 0, 1] };
    assert!(refused(good().0, element, good().2).contains("ids is null, empty or with a null"));
    let empty = Values { values: vec![-1, 5], definition: vec![2, 2, 0], repetition: vec![0, 1, 0] };
    assert!(refused(good().0, empty, good().2).contains("ids is null, empty or with a null"));
    assert!(refused(flat([2, 3]), good().1, good().2).contains("order is 3, but there are 2 ids"));
    assert!(refused(flat([2, 7]), good().1, good().2).contains("order 7 is outside 1 to 6"));
    assert!(refused(good().0, good().1, flat([1, -4])).contains("count -4 is negative"));
    assert!(refused(good().0, good().1, flat([1, 0])).contains("counts nothing"));
    assert!(refused(good().0, lists(&[5, -1]), good().2).contains("can only come first"));
    assert!(refused(flat([2, 1]), lists(&[5]), good().2).contains("neither of order 2 nor a shorter one"));
}

#[test]
fn folders_that_are_no_tables_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.parquet");
    assert!(message(&dir.path().join("none")).contains("cannot read the folder"));
    fs::write(dir.path().join("_SUCCESS"), "").unwrap();
    assert!(message(dir.path()).contains("has no .parquet file"));
    fs::write(&path, "no table").unwrap();
    assert!(message(dir.path()).contains("a.parquet: this is no whole Parquet file"));
    let ids = "required group ids (LIST) { repeated group list { required int64 element; } }";
    let list = || Values::lists(&[vec![-1, 5]], 1);
    let refused = |fields: &str, columns: &[Values]| {
        foreign(&path, fields, columns, None);
        message(dir.path())
    };
    let flat = |value: i64| Values::from(&[value][..]);
    let missing = refused(&format!("required int32 n; {ids} required int64 count;"), &[flat(2), list(), flat(1)]);
    assert!(missing.contains("no column order (only n, ids, count)") && missing.contains("count bigint"), "{missing}");
    for kind in ["double count", "int32 count (DATE)", "int64 count (INTEGER(64,false))"] {
        let wrong = refused(&format!("required int32 order; {ids} required {kind};"), &[flat(2), list(), flat(1)]);
        assert!(wrong.contains("column count is no bigint but"), "{wrong}");
    }
    let wrong =
        refused("required int32 order; required int64 ids; required int64 count;", &[flat(2), flat(5), flat(1)]);
    assert!(wrong.contains("column ids is no array<bigint> but `REQUIRED INT64 ids;`"), "{wrong}");
    let fields = format!("required int32 order; {ids} required int64 count;");
    assert!(refused(&fields, &[flat(0), list(), flat(1)]).contains("row 1: order 0 is outside"));
    let none = [Values::default(), Values::default(), Values::default()];
    assert!(refused(&fields, &none).contains("the table has no row"));
    foreign(&path, &fields, &[flat(2), list(), flat(1)], Some((VOCABULARY_KEY, "{\"eos\": 3}")));
    assert!(message(dir.path()).contains("a.parquet: the metadata draftsmith.vocabulary is none"));
    fs::create_dir(dir.path().join("_temporary")).unwrap();
    assert!(message(dir.path()).contains("has not finished"));
}

#[test]
fn only_a_table_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let counts = counted(2, Vocabulary::default(), &[]);
    let folder = dir.path().join("table");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("part-0.parquet"), "old").unwrap();
    fs::write(folder.join("_SUCCESS"), "").unwrap();
    counts.write_parquet(&folder).unwrap();
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
    fs::write(folder.join("thesis.tex"), "").unwrap();
    let refused = counts.write_parquet(&folder).unwrap_err().to_string();
    assert!(refused.contains("thesis.tex"), "{refused}");
    assert!(counts.write_parquet(&folder.join("thesis.tex")).is_err());
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 2);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing half-written stays");
}
