"""One tiny data set in each layout that ``data=folder`` understands: the same images and masks, written differently."""

import base64
import io
import json

import numpy as np
import PIL.Image

from support.folders import save

SIZE = (16, 20)
CLASSES = ["background", "cell", "debris"]
COLOURS = [[0, 0, 0], [255, 0, 0], [0, 255, 0]]
SPLITS = {"train": 4, "val": 2, "test": 2}
BOXES = {1: (2, 3, 8, 9), 2: (10, 4, 15, 17)}  # class: top, left, bottom, right


def samples(split):
    """The name, image (H, W, 3) and mask (H, W) of each sample of a split."""
    random = np.random.default_rng(len(split))
    for number in range(SPLITS[split]):
        mask = np.zeros(SIZE, np.uint8)
        for label, (top, left, bottom, right) in BOXES.items():
            mask[top : bottom - number % 2, left + number : right] = label
        yield f"{split}_{number}", random.integers(32, 256, (*SIZE, 3), np.uint8), mask


def write_files(root, image, mask, *, splits=SPLITS, coloured=False, values=(0, 1, 2)):
    """Write images and masks to the paths that two templates of ``{split}`` and ``{name}`` say."""
    for split in splits:
        for name, pixels, labels in samples(split):
            save(root / image.format(split=split, Split=split.title(), name=name), pixels)
            if mask:
                table = np.array(COLOURS if coloured else values, np.uint8)
                save(root / mask.format(split=split, Split=split.title(), name=name), table[labels])


def in_files(image, mask, **options):
    return lambda root: write_files(root, image, mask, **options) or {}


def templates(image, mask, images, masks):
    """A layout that needs the two options."""

    def write(root):
        write_files(root, image, mask)
        return {"images": images, "masks": masks}

    return write


def lists(
    line, image="JPEGImages/{name}.png", mask="SegmentationClass/{name}.png", at="ImageSets/Segmentation", **more
):
    def write(root):
        write_files(root, image, mask)
        for split in SPLITS:
            lines = [line.format(name=name, split=split) for name, _, _ in samples(split)]
            (root / at).mkdir(parents=True, exist_ok=True)
            (root / at / f"{split}.txt").write_text("\ufeff# names\n" + "\n".join(lines) + "\n\n")
        return more

    return write


def cvat(root):
    write_files(root, "JPEGImages/{name}.png", "SegmentationClass/{name}.png", coloured=True)
    lists("{name}", "x/{split}{name}.png", "")(root)
    lines = [f"{name}:{r},{g},{b}::" for name, (r, g, b) in zip(CLASSES, COLOURS, strict=True)]
    (root / "labelmap.txt").write_text("# label:color_rgb:parts:actions\n" + "\n".join(lines) + "\n")
    return {}


def camvid_of_kaggle(root):
    write_files(root, "{split}/{name}.png", "{split}_labels/{name}_L.png", coloured=True)
    lines = [f"{name},{r},{g},{b}" for name, (r, g, b) in zip(CLASSES, COLOURS, strict=True)]
    (root / "class_dict.csv").write_text("name,r,g,b\n" + "\n".join(lines) + "\n")
    return {}


def class_files(form):
    def write(root):
        write_files(root, "{split}/images/{name}.png", "")
        for split in SPLITS:
            for name, _, mask in samples(split):
                for label in (1, 2):
                    path = root / split / "masks" / form.format(name=name, label=CLASSES[label])
                    save(path, (mask == label).astype(np.uint8) * 255)
        return {}

    return write


def boxes(mask):
    """The class and the bounding box (top, left, bottom, right) of each rectangle in a mask."""
    for label in (1, 2):
        rows, columns = np.nonzero(mask == label)
        yield label, (rows.min(), columns.min(), rows.max() + 1, columns.max() + 1)


def runs(inside):
    """COCO's uncompressed run lengths of a boolean mask."""
    flat = inside.T.ravel()
    edges = np.flatnonzero(np.diff(flat.astype(int))) + 1
    counts = np.diff([0, *edges, flat.size]).tolist()
    return [0, *counts] if flat[0] else counts


def compressed(counts):
    """COCO's compressed run lengths, by the definition in its maskApi.c."""
    text = ""
    for index, count in enumerate(counts):
        number = count - (counts[index - 2] if index > 2 else 0)
        more = True
        while more:
            bits = number & 31
            number >>= 5
            more = number != (-1 if bits & 16 else 0)
            text += chr((bits | 32 if more else bits) + 48)
    return text


def segmentation(mask, label, box, how):
    if how == "polygon":
        top, left, bottom, right = map(int, box)
        return [[left, top, right, top, right, bottom, left, bottom]]
    counts = runs(mask == label)
    return {"size": list(SIZE), "counts": compressed(counts) if how == "compressed" else counts}


def coco_content(split, how="polygon", file="{name}.png"):
    images, annotations = [], []
    for number, (name, _, mask) in enumerate(samples(split)):
        images.append({"id": number, "file_name": file.format(name=name), "height": SIZE[0], "width": SIZE[1]})
        annotations += [
            {"id": len(annotations) + label, "image_id": number, "category_id": 10 * label, "iscrowd": 0}
            | {"segmentation": segmentation(mask, label, box, how)}
            for label, box in boxes(mask)
        ]
    categories = [{"id": 10 * label, "name": CLASSES[label]} for label in (1, 2)]
    return {"images": images, "annotations": annotations, "categories": [*categories, {"id": 3, "name": "unused"}]}


def coco(json_path, image, how="polygon", **options):
    def write(root):
        write_files(root, image, "")
        for split in SPLITS:
            path = root / json_path.format(split=split)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(coco_content(split, how)))
        return options

    return write


def labelme_shape(mask, label, box, how):
    top, left, bottom, right = map(int, box)
    shape = {"label": CLASSES[label], "shape_type": how}
    if how == "polygon":
        return shape | {"points": [[left, top], [right, top], [right, bottom], [left, bottom]]}
    if how == "mask":
        data = io.BytesIO()
        PIL.Image.fromarray(mask[top:bottom, left:right] == label).save(data, "PNG")
        shape["mask"] = base64.b64encode(data.getvalue()).decode()
    return shape | {"points": [[left, top], [right, bottom]]}


def labelme_content(name, mask, how="polygon"):
    shapes = [labelme_shape(mask, label, box, how) for label, box in boxes(mask)]
    size = {"imageHeight": SIZE[0], "imageWidth": SIZE[1]} if how == "polygon" else {"imageHeight": None}
    return {"version": "5", "shapes": shapes, "imagePath": f"..\\{name}.png", "imageData": None} | size


def labelme(json_path, image, how="polygon"):
    def write(root):
        write_files(root, image, "")
        for split in SPLITS:
            for name, _, mask in samples(split):
                path = root / json_path.format(split=split, name=name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(labelme_content(name, mask, how)))
        return {}

    return write


def nnunet(root):
    write_files(root, "imagesTr/{name}_0000.png", "labelsTr/{name}.png", splits=("train", "val"))
    write_files(root, "imagesTs/{name}_0000.png", "labelsTs/{name}.png", splits=("test",))
    labels = {name: index for index, name in enumerate(CLASSES)}
    content = {"channel_names": {"0": "RGB"}, "labels": labels, "file_ending": ".png", "numTraining": 6}
    (root / "dataset.json").write_text(json.dumps(content))
    return {"fractions": [0.5, 0.5]}


def archive(root):
    """As an archive is unpacked: one folder in another."""
    write_files(root / "set-main" / "data", "{split}/images/{name}.png", "{split}/masks/{name}.png")
    (root / "__MACOSX").mkdir()
    return {}


IN_FOLDERS = {
    "image/label": ("{split}/image/{name}.png", "{split}/label/{name}.png"),
    "Images/Labels": ("{split}/Images/{name}.png", "{split}/Labels/{name}.png"),
    "Train/Img": ("{Split}/Img/{name}.png", "{Split}/Ann/{name}.png"),
    "images/Train": ("Images/{Split}/{name}.png", "GT/{Split}/{name}.png"),
    "img/ann": ("{split}/img/{name}.png", "{split}/ann/{name}.png"),
    "train_images": ("{split}_images/{name}.png", "{split}_masks/{name}.png"),
    "imagesTrain": ("images{split}/{name}.png", "masks-{split}/{name}.png"),
    "trainannot": ("{split}/{name}.png", "{split}annot/{name}.png"),
    "train2017": ("{split}2017/{name}.png", "labels/{split}2017/{name}.png"),
    "ground_truth": ("{split}/original_images/{name}.png", "{split}/ground_truth/{name}.png"),
    "deep": ("{split}/images/slide/{name}.png", "{split}/gt/slide/{name}.png"),
    "img_1/mask_1": ("{split}/images/img_{name}.png", "{split}/masks/mask_{name}.png"),
    "x_img/x_L": ("{split}/images/{name}_img.png", "{split}/masks/{name}_L.png"),
    "x_mask": ("{split}/{name}.png", "{split}/{name}_mask.png"),
    "x-label": ("{split}/{name}.png", "{split}/{name}-label.png"),
    "x_seg, jpg": ("{split}/{name}_rgb.png", "{split}/{name}_seg.png"),
    "x_GT in images": ("{split}/images/{name}.png", "{split}/images/{name}_GT.png"),
}
TEMPLATES = {
    "tif": ("{split}/img/{name}.tif", "{split}/lab/{name}_L.png", "{split}/img/*.tif", "{split}/lab/{name}_L.png"),
    "no suffix": ("{split}/a/{name}.png", "{split}/b/{name}.png", "{split}/a/*", "{split}/b/{name}"),
    "any suffix": ("{split}/a/{name}.png", "{split}/b/x{name}.png", "{split}/a/*.*", "{split}/b/x{name}.*"),
    "other order": ("a/{split}/{name}_i.png", "b/{split}/{name}_m.png", "a/{split}/*_i.png", "b/{split}/{name}_m.png"),
    "stars": ("{split}/s1/a/{name}.png", "{split}/s1/b/{name}.png", "{split}/*/a/*.png", "{split}/*/b/{name}.png"),
    "a folder": ("a/{split}/{name}.png", "b/{split}/{name}.png", "a/{split}", "b/{split}"),
    "split of masks": ("a/{name}.png", "b/{split}/{name}.png", "a/*.png", "b/{split}/{name}.png"),
    "split of images": ("a/{split}/{name}.png", "b/{name}.png", "a/{split}/*.png", "b/{name}.png"),
    "in names": ("{split}-{name}-i.png", "{split}-{name}-m.png", "{split}-{name}-i.png", "{split}-{name}-m.png"),
    "deep": ("{split}/x/y/{name}.png", "{split}/m/{name}.png", "{split}/**/y/*.png", "{split}/m/{name}.png"),
}
LAYOUTS = {
    **{name: in_files(*paths) for name, paths in IN_FOLDERS.items()},
    **{f"template: {name}": templates(*paths) for name, paths in TEMPLATES.items()},
    "voc": lists("{name}"),
    "list of images": lists("JPEGImages/{name}.png", at="."),
    "list of pairs": lists("a/{name}.png b/{name}_x.png", "a/{name}.png", "b/{name}_x.png", "."),
    "list of pairs, comma": lists("a/{name}.png,b/{name}_x.png", "a/{name}.png", "b/{name}_x.png", "splits"),
    "list of pairs, tab": lists("./a/{name}.png\tb/{name}_x.png", "a/{name}.png", "b/{name}_x.png", "lists"),
    "lists given": lists("{name}", "a/{name}.png", "b/{name}.png", "c", images="a", masks="b", lists="c/{split}.txt"),
    "cvat": cvat,
    "camvid of kaggle": camvid_of_kaggle,
    "folder for each class": class_files("{label}/{name}.png"),
    "file for each class": class_files("{name}_{label}.png"),
    "coco": coco("annotations/instances_{split}2017.json", "{split}2017/{name}.png"),
    "coco of roboflow": coco("{split}/_annotations.coco.json", "{split}/{name}.png", "compressed"),
    "coco, runs": coco("annotations/{split}.json", "images/{name}.png", "runs"),
    "coco given": coco(
        "x/{split}.json", "y/{split}/{name}.png", images="y/{split}", masks="x/{split}.json"
    ),
    "coco given, patterns": coco(
        "x/{split}.json", "y/{split}/{name}.png", images="y/{split}/*.png", masks="x/{split}.json"
    ),
    "coco given, alone": coco("x/{split}.json", "y/{split}/{name}.png", masks="x/{split}.json"),
    "labelme beside": labelme("{split}/{name}.json", "{split}/{name}.png"),
    "labelme in folders": labelme("{split}/labels/{name}.json", "{split}/images/{name}.png", "rectangle"),
    "labelme masks": labelme("ann/{split}/{name}.json", "img/{split}/{name}.png", "mask"),
    "archive": archive,
}  # fmt: skip
