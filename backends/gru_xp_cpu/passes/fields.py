"""What the kernels "forward" and "backward" are called with, in order: one integer each, see `code.Record`.

SIZES are the same for all calls of one size, CALL is one call's own, PLACES are in scratch memory, where `plan` lays
them out. The field `arrays` is the address of a tuple of NumPy's arrays, the ARRAYS.
"""

__all__ = ["ARRAYS", "CALL", "COMPACT", "GATES", "HEADER", "PLACES", "SIZES", "STATES", "STEP"]

#: flags of an array: in C order, and aligned
COMPACT = 0x1 | 0x100
#: what the forward pass writes, in its field `what`: y and the next state; the states before each step; the gates
STEP, STATES, GATES = 1, 2, 4

SIZES = "items_at data_at flags_at none T N I H steps unit_parts wait pitch"
CALL = {"forward": "first last reverse what arrays", "backward": "first last reverse dy_row dy_step arrays"}
#: the first four of the forward pass are those of packed weights, see `layer.pack`
PLACES = {
    "forward": "*panels_ih *panels_hh *start_gi *start_gh *gi *state *begun",
    "backward": """*columns_ih *columns_hh *panels_ih *panels_hh *start_gi *start_gh
                   *carry *D *X *P *gates *dy_clean *totals""",
}
#: a tilde is before what need not be compact
ARRAYS = {
    "forward": "x h0 W_ih W_hh b_ih b_hh y h_n h_prev r z n u x_clean valid cut",
    "backward": """x h_prev r z n u W_ih W_hh b_ih b_hh ~dy dh_n valid cut
                   dx dh0 dW_ih dW_hh db_ih db_hh""",
}
#: what callers in native code give before the fields: the threads, what `launch` calls `alone`, bytes of scratch memory
HEADER = ("threads", "alone", "scratch")
