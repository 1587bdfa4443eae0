"""What a kernel is called with, in order: one integer each, see `code.Record`.

SIZES are the same for all calls of one size; PLACES are in scratch memory, where `plan` lays them out.
"""

__all__ = ["BACKWARD", "FORWARD", "PLACES_BACKWARD", "PLACES_FORWARD", "SIZES"]

SIZES = "data_at T N I H steps unit_parts wait pitch"

FORWARD = """first last reverse what has_valid has_cut has_bias pack
 ^x ^h0 ^W_ih ^W_hh ^b_ih ^b_hh ^y ^h_n ^h_prev ^r ^z ^n ^u ^x_clean ^valid ^cut"""
PLACES_FORWARD = "*panels_ih *panels_hh *start_gi *start_gh *gi *state *begun"

BACKWARD = """first last reverse has_valid has_cut has_bias recompute has_dh_n fresh
 ^x ^h_prev ^r ^z ^n ^u ^W_ih ^W_hh ^b_ih ^b_hh ^dy dy_row dy_step ^dh_n ^valid ^cut
 ^dx ^dh0 ^dW_ih ^dW_hh ^db_ih ^db_hh"""
PLACES_BACKWARD = """*columns_ih *columns_hh *panels_ih *panels_hh *start_gi *start_gh
 *carry *D *X *P *gates *dy_clean *totals"""
