"Sphinx's settings; the pages come from build.py"
import ast, sys
from pathlib import Path
from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml

here = Path(__file__).resolve().parent
sys.path.insert(0, str(here))
from facts import facts, root  # noqa: E402

told = facts()
project,release = told.name,told.version
extensions = ['myst_nb', 'sphinx.ext.viewcode', 'sphinx_copybutton', 'around', 'look']

html_theme = 'furo'
html_title = project
html_favicon = '_static/mask.svg'
html_static_path = ['_static']
html_css_files = ['site.css', 'reference.css']
html_js_files = ['site.js', 'reference.js', 'sections.js', 'search.js']
templates_path = ['_templates']
html_additional_pages = {'search': 'search.html'}
sidebar = 'brand','facts','search','scroll-start','navigation','scroll-end'
html_sidebars = {'**': [f'sidebar/{o}.html' for o in sidebar]}
html_copy_source = html_show_sourcelink = html_show_copyright = False
html_theme_options = dict(navigation_with_keys=True)
pygments_style,pygments_dark_style = 'a11y-high-contrast-light','github-dark'

copybutton_prompt_text = '$ '
nb_execution_mode = 'off'
nb_ipywidgets_js = {}
nb_merge_streams = True
nb_code_prompt_show,nb_code_prompt_hide = 'Show the code','Hide the code'
myst_heading_anchors = 4
myst_enable_extensions = ['dollarmath', 'colon_fence']
html_math_renderer = 'mathml' # which browsers draw themselves
viewcode_follow_imported_members = False # a name is where it is defined
add_module_names = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 66 # or one parameter a line
python_trailing_comma_in_multi_line_signatures = False
toc_object_entries_show_parents = 'hide'
nitpicky = True
smartquotes = False # 'reset' is what one types
suppress_warnings = ['mystnb.unknown_mime_type']

def definitions(tree):
    "Name, kind, first and last line of what a module defines, and its classes; a patched function belongs to its class"
    for node in tree.body:
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef)): continue
        name,kind = node.name,'class' if isinstance(node, ast.ClassDef) else 'def'
        first = min([node.lineno, *(o.lineno for o in node.decorator_list)])
        if any(ast.unparse(o).startswith('patch') for o in node.decorator_list):
            owners = node.args.args[0].annotation
            owners = owners.elts if isinstance(owners, ast.Tuple) else [owners]
            for owner in owners: yield f'{ast.unparse(owner)}.{name}',kind,first,node.end_lineno
        else: yield name,kind,first,node.end_lineno
        if kind=='class': yield from ((f'{name}.{k}', *rest) for k,*rest in definitions(node))

def source(app, module):
    "The source of a module, and where in it everything is"
    path = root/f"{module.replace('.', '/')}.py"
    if not path.exists(): return None
    code = path.read_text(encoding='utf-8')
    return code,{name: (kind, first, last) for name,kind,first,last in definitions(ast.parse(code))}

def math(block):
    "Writes a formula as MathML"
    def visit(writer, node):
        writer.body.append(tex2mathml(node.astext(), as_block=block))
        raise nodes.SkipNode
    return visit,None

def setup(app):
    app.connect('viewcode-find-source', source)
    app.add_html_math_renderer('mathml', math(False), math(True))
