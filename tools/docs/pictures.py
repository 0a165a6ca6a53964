"The site's small pictures: of tutorials on the first page, the card that others show of it, the icon of a phone"
import io, re
from PIL import Image, ImageDraw, ImageOps

def png(image):
    data = io.BytesIO()
    image.save(data, 'PNG', optimize=True)
    return data.getvalue()

def flat(image):
    "On white, without transparency"
    image = image.convert('RGBA')
    return Image.alpha_composite(Image.new('RGBA', image.size, 'white'), image).convert('RGB')

def thumbnail(data, size=(560, 280)):
    "A picture, all of it, on a card"
    return png(ImageOps.pad(flat(Image.open(io.BytesIO(data))), size, Image.LANCZOS, 'white').quantize(64))

def icon(svg, size=180):
    "The squares of mask.svg as a PNG"
    boxes = re.findall(r'<rect(?: x="(\d+)" y="(\d+)")? width="(\d+)" height="(\d+)"(?:[^>]*fill="(#\w+)")?', svg)
    color,k = re.search(r'<g fill="(#\w+)"', svg)[1],size/32
    image = Image.new('RGB', (size, size), boxes[0][4])
    for x,y,w,h,_ in boxes[1:]:
        corners = [round(int(o)*k) for o in (x, y, int(x)+int(w), int(y)+int(h))]
        ImageDraw.Draw(image).rectangle([corners[0], corners[1], corners[2]-1, corners[3]-1], fill=color)
    return image

def card(picture, mark, size=(1200, 630)):
    "The first page's picture and the project's mark, as others show a link to the site"
    image = Image.new('RGB', size, 'white')
    image.paste(mark, ((size[0]-mark.width)//2, 70))
    picture = flat(picture)
    height = round(picture.height*1120/picture.width)
    image.paste(picture.resize((1120, height), Image.LANCZOS), (40, 320))
    return image

def write_icons(nbs, static):
    mark = icon((static/'mask.svg').read_text())
    (static/'icon.png').write_bytes(png(mark))
    first = next(iter(sorted((nbs/'images'/'index').glob('*.png'))))
    (static/'card.png').write_bytes(png(card(Image.open(first), mark)))
