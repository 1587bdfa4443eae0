"""What a kernel is called with, in order: one integer each, see `code.Record`.

Beside sizes, strides and switches: arrays of the caller, and after them places in scratch memory, which `plan` lays out.
"""

__all__ = ["BACKWARD", "FORWARD"]

FORWARD = """data_at T N I H first last reverse what steps unit_parts has_valid has_cut has_bias pack
 ^x x_row ^h0 ^W_ih ^W_hh ^b_ih ^b_hh ^y y_row ^h_n ^h_prev ^r ^z ^n ^u ^x_clean ^valid ^cut
 *panels_ih *panels_hh *start_gi *start_gh *gi *state"""

BACKWARD = """data_at T N I H first last reverse steps unit_parts has_valid has_cut has_bias recompute has_dh_n fresh
 ^x x_row ^h_prev ^r ^z ^n ^u ^W_ih ^W_hh ^b_ih ^b_hh ^dy dy_row dy_step ^dh_n ^valid ^cut
 ^dx ^dh0 ^dW_ih ^dW_hh ^db_ih ^db_hh
 *columns_ih *columns_hh *panels_ih *panels_hh *start_gi *start_gh
 *carry *D *X *P *gates *dy_clean *totals"""
