"""What a kernel is called with, in order: one integer each, see `code.Record`.

SIZES are the same for all calls of one size; PLACES are in scratch memory, where `plan` lays them out. ARRAYS are a
tuple of NumPy's arrays, whose address is the last integer before the places.
"""

__all__ = ["ARRAYS_BACKWARD", "ARRAYS_FORWARD", "BACKWARD", "FORWARD", "PLACES_BACKWARD", "PLACES_FORWARD", "SIZES"]

SIZES = "items_at data_at none T N I H steps unit_parts wait pitch"

FORWARD = "first last reverse what arrays"
ARRAYS_FORWARD = "x h0 W_ih W_hh b_ih b_hh y h_n h_prev r z n u x_clean valid cut"
PLACES_FORWARD = "*panels_ih *panels_hh *start_gi *start_gh *gi *state *begun"

BACKWARD = "first last reverse dy_row dy_step arrays"
ARRAYS_BACKWARD = """x h_prev r z n u W_ih W_hh b_ih b_hh dy dh_n valid cut
 dx dh0 dW_ih dW_hh db_ih db_hh"""
PLACES_BACKWARD = """*columns_ih *columns_hh *panels_ih *panels_hh *start_gi *start_gh
 *carry *D *X *P *gates *dy_clean *totals"""
