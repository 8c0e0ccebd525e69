"""A model behind HTTP. POST an image file to /mask or /shares. From the root of a checkout.

SEGPIPE_MODEL=outputs/runs/NAME uvicorn examples.serve:app   # pip install fastapi uvicorn python-multipart
curl -F image=@photo.jpg localhost:8000/mask --output mask.png
"""

import io
import os

import PIL.Image
from fastapi import FastAPI, HTTPException, Response, UploadFile

import segpipe

MAX_BYTES = 20_000_000
app = FastAPI(title="segpipe")
model = segpipe.load(os.environ["SEGPIPE_MODEL"])  # a run, or a file of segpipe.export; threads may share it


def predict(image: UploadFile):
    """Return the mask of an uploaded image file. A file that is too large or no image is an error of the caller."""
    content = image.file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise HTTPException(413, f"The file has more than {MAX_BYTES:,} bytes. Reduce the image.")
    try:
        return model(content)
    except segpipe.UserError as error:
        raise HTTPException(422, str(error)) from error


@app.post("/mask")
def mask(image: UploadFile) -> Response:
    """Return the class indices as a PNG. FastAPI calls a plain function in a thread of its pool."""
    file = io.BytesIO()
    PIL.Image.fromarray(predict(image)).save(file, "PNG")
    return Response(file.getvalue(), media_type="image/png")


@app.post("/shares")
def shares(image: UploadFile) -> dict[str, float]:
    """Return the share of the pixels of each class."""
    found = predict(image)
    return {name: float((found == index).mean()) for index, name in enumerate(model.classes)}
