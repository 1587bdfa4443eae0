"""The command line, `gru-xp`. What a user can put right is one line on stderr."""

from .look import look
from .main import app
from .models import models
from .quantize import quantize

app.command()(look)
app.command()(quantize)
app.add_typer(models)

__all__ = ["app"]
