//! The one inner loop: a few rows times one panel of weights, accumulated in registers.

use std::sync::LazyLock;

use bytemuck::Pod;
use pulp::{Simd, WithSimd};

use super::ARCH;

/// The largest number of rows of a tile.
pub(super) const ROWS: usize = 12;

/// The largest number of rows of a tile on this machine: as many as the registers hold, with two sums for each row, two
/// vectors of weights and two registers to spare. More would keep sums in memory, at half the speed.
static FITTING: LazyLock<usize> = LazyLock::new(|| {
    struct Fitting;
    impl WithSimd for Fitting {
        type Output = usize;
        fn with_simd<S: Simd>(self, _: S) -> usize {
            ((S::REGISTER_COUNT - 4) / 2).min(ROWS)
        }
    }
    ARCH.dispatch(Fitting)
});

/// Returns the rows of the next tile when `left` rows are left. It prefers nearly equal tiles to a full one and a
/// remainder of one row.
pub(super) fn next_rows(left: usize) -> usize {
    let most = *FITTING;
    match left {
        _ if left <= most => left,
        _ if left < 2 * most => left.div_ceil(2),
        _ => most,
    }
}

/// The stored form of a panel's numbers, and how they become float32. A row of a panel holds the weights that one input
/// is multiplied by, one for each column.
pub(super) trait Format: Copy + Sync {
    /// The stored number.
    type Number: Pod + Sync + Send;
    /// The stored numbers of a row, as vectors.
    type Row<S: Simd>: Copy;

    /// Returns how many stored numbers make a row of a panel of `columns` columns.
    fn stored(columns: usize) -> usize;

    /// Returns the rows of a panel.
    fn rows<S: Simd>(panel: &[Self::Number]) -> &[Self::Row<S>];

    /// Returns the two vectors of a row.
    fn decode<S: Simd>(self, simd: S, row: Self::Row<S>) -> [S::f32s; 2];
}

/// Four bytes for each weight.
#[derive(Clone, Copy)]
pub(super) struct Float32;

/// Two bytes for each weight, scaled by a power of two. A word holds a weight of the first vector in its low half and
/// one of the second vector in its high half.
#[derive(Clone, Copy)]
pub(super) struct Float16 {
    /// The factor that takes the stored numbers back to the weights.
    pub scale: f32,
}

/// Two bytes for each weight, in words as for [`Float16`].
#[derive(Clone, Copy)]
pub(super) struct Bfloat16;

impl Format for Float32 {
    type Number = f32;
    type Row<S: Simd> = [S::f32s; 2];

    fn stored(columns: usize) -> usize {
        columns
    }

    #[inline(always)]
    fn rows<S: Simd>(panel: &[f32]) -> &[[S::f32s; 2]] {
        S::as_simd_f32s(panel).0.as_chunks().0
    }

    #[inline(always)]
    fn decode<S: Simd>(self, _simd: S, row: [S::f32s; 2]) -> [S::f32s; 2] {
        row
    }
}

impl Format for Float16 {
    type Number = u32;
    type Row<S: Simd> = S::u32s;

    fn stored(columns: usize) -> usize {
        columns / 2
    }

    #[inline(always)]
    fn rows<S: Simd>(panel: &[u32]) -> &[S::u32s] {
        S::as_simd_u32s(panel).0
    }

    #[inline(always)]
    fn decode<S: Simd>(self, simd: S, row: S::u32s) -> [S::f32s; 2] {
        // With exponent and fraction moved to where float32 has them, the number is 2^-112 times what it should be; the
        // product mends that exactly.
        let mend = simd.splat_f32s(self.scale * 2f32.powi(112));
        let number = |high: S::u32s| {
            let sign = simd.and_u32s(high, simd.splat_u32s(0x8000_0000));
            let rest = simd.and_u32s(high, simd.splat_u32s(0x7fff_0000));
            let rest = simd.wrapping_dyn_shr_u32s(rest, simd.splat_u32s(3));
            simd.mul_f32s(simd.transmute_f32s_u32s(simd.or_u32s(sign, rest)), mend)
        };
        [number(simd.wrapping_dyn_shl_u32s(row, simd.splat_u32s(16))), number(row)]
    }
}

impl Format for Bfloat16 {
    type Number = u32;
    type Row<S: Simd> = S::u32s;

    fn stored(columns: usize) -> usize {
        columns / 2
    }

    #[inline(always)]
    fn rows<S: Simd>(panel: &[u32]) -> &[S::u32s] {
        S::as_simd_u32s(panel).0
    }

    #[inline(always)]
    fn decode<S: Simd>(self, simd: S, row: S::u32s) -> [S::f32s; 2] {
        let low = simd.wrapping_dyn_shl_u32s(row, simd.splat_u32s(16));
        let high = simd.and_u32s(row, simd.splat_u32s(0xffff_0000));
        [simd.transmute_f32s_u32s(low), simd.transmute_f32s_u32s(high)]
    }
}

/// The destination of a tile's results: `width` columns from `first` on, with `stride` numbers between the starts of
/// rows.
#[derive(Clone, Copy)]
pub(super) struct Target<'a> {
    pub first: *mut f32,
    pub stride: usize,
    pub width: usize,
    /// `[width]`, added to each row, or empty.
    pub bias: &'a [f32],
    /// Whether results are added to what the destination holds, rather than overwrite it.
    pub add: bool,
}

/// Multiplies `rows` interleaved rows (`xs[input * rows + row]`) by a panel.
///
/// # Safety
/// Each of the `rows` rows of `target` must be `width` initialised numbers that this call may write, and that nobody
/// else reads or writes until it returns.
#[inline(always)]
pub(super) unsafe fn tile<S: Simd, F: Format>(
    simd: S,
    format: F,
    rows: usize,
    xs: &[f32],
    panel: &[F::Number],
    target: Target,
) {
    macro_rules! of_rows {
        ($($n:literal)*) => {
            match rows {
                // SAFETY: the caller promises the same of so many rows.
                $($n => unsafe { fixed::<S, F, $n>(simd, format, xs, panel, target) },)*
                _ => unreachable!("next_rows gives 1 to 12"),
            }
        };
    }
    of_rows!(1 2 3 4 5 6 7 8 9 10 11 12);
}

/// Does the work of [`tile`] with the number of rows known to the compiler, which keeps the sums in registers.
///
/// # Safety
/// As for [`tile`], with `R` rows.
#[inline(always)]
unsafe fn fixed<S: Simd, F: Format, const R: usize>(
    simd: S,
    format: F,
    xs: &[f32],
    panel: &[F::Number],
    target: Target,
) {
    let mut sums = [[simd.splat_f32s(0.0); 2]; R];
    for (x, row) in xs.as_chunks::<R>().0.iter().zip(F::rows::<S>(panel)) {
        let [first, second] = format.decode(simd, *row);
        for r in 0..R {
            let x = simd.splat_f32s(x[r]);
            sums[r][0] = simd.mul_add_f32s(x, first, sums[r][0]);
            sums[r][1] = simd.mul_add_f32s(x, second, sums[r][1]);
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        // SAFETY: the caller promises that row `r`, of `width` numbers, may be written and is used by nobody else.
        let out = unsafe { std::slice::from_raw_parts_mut(target.first.add(r * target.stride), target.width) };
        let sums: &[f32] = &bytemuck::cast_slice(sums)[..target.width];
        if !target.bias.is_empty() {
            for ((out, sum), bias) in out.iter_mut().zip(sums).zip(target.bias) {
                *out = if target.add { *out + (sum + bias) } else { sum + bias };
            }
        } else {
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = if target.add { *out + sum } else { *sum };
            }
        }
    }
}
