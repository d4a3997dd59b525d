//! Rows of a table by number: an embedding and its gradient.

/// See [`crate::engine::DecoderBackend::gather_rows`].
pub(super) fn forward(rows: &[u32], cols: usize, table: &[f32], y: &mut [f32]) {
    assert_eq!(y.len(), rows.len() * cols);
    for (row, y) in rows.iter().zip(y.chunks_exact_mut(cols)) {
        let start = *row as usize * cols;
        y.copy_from_slice(&table[start..start + cols]);
    }
}

/// See [`crate::engine::DecoderBackend::gather_rows_backward`]. A row may be asked for several times: its gradients add.
pub(super) fn backward(rows: &[u32], cols: usize, dy: &[f32], dtable: &mut [f32]) {
    assert_eq!(dy.len(), rows.len() * cols);
    for (row, dy) in rows.iter().zip(dy.chunks_exact(cols)) {
        let start = *row as usize * cols;
        for (sum, value) in dtable[start..start + cols].iter_mut().zip(dy) {
            *sum += value;
        }
    }
}
