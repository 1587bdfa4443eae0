"""Write, compile and keep machine code: LLVM's language as if it were Python, and the processor it is for."""
