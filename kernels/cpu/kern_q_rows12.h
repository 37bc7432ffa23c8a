/* Tiles of kern_q_impl.h and kern_q_many.h where there are 32 registers of 512 bits: 24 sums, two of weights, and what a product takes. */
#define NARROW_ROWS 12
#define WIDE_ROWS 12
#define TILE_ROWS_CASES(fn, grouped)                                                                                                       \
    TILE(fn, 1, grouped)                                                                                                                   \
    TILE(fn, 2, grouped)                                                                                                                   \
    TILE(fn, 3, grouped)                                                                                                                   \
    TILE(fn, 4, grouped)                                                                                                                   \
    TILE(fn, 5, grouped)                                                                                                                   \
    TILE(fn, 6, grouped)                                                                                                                   \
    TILE(fn, 7, grouped)                                                                                                                   \
    TILE(fn, 8, grouped) TILE(fn, 9, grouped) TILE(fn, 10, grouped) TILE(fn, 11, grouped) TILE(fn, 12, grouped)

#define MANY_ROWS 12
#define MANY_CASES \
    MANY_TILE(1) MANY_TILE(2) MANY_TILE(3) MANY_TILE(4) MANY_TILE(5) MANY_TILE(6) MANY_TILE(7) MANY_TILE(8) \
    MANY_TILE(9) MANY_TILE(10) MANY_TILE(11) MANY_TILE(12)
